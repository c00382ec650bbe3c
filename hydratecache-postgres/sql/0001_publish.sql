-- hydratecache: publishing from SQL. Migration 1.
--
--   psql -v ON_ERROR_STOP=1 -f 0001_publish.sql        (or Migration::install in Rust)
--
-- It can be run again at any time. All that it makes is in the schema "hydratecache". To remove it:
-- detach every table of hydratecache.attached, then DROP SCHEMA hydratecache CASCADE.
--
-- For applications:
--   hydratecache.publish(topic, key, value, ttl, version)   a new value
--   hydratecache.remove(topic, key, version)                the key has no value any more
--   hydratecache.clear(topic, version)                      the whole topic has none
--   hydratecache.attach(table, topic, key columns ...)      every write to the table publishes
--   hydratecache.detach(table)                              not any more
--   hydratecache.attached                                   which tables do
--   hydratecache.key(part, part, ...)                       the key of a row with several key columns
--
-- A message leaves when its transaction commits, and never if it rolls back. Its form is specified
-- in docs/WIRE.md, "PostgreSQL". Errors have SQLSTATEs of the class HC and a hint.
--
-- PostgreSQL knows no right to LISTEN: every role that may connect to the database can read what is
-- published in it. Keep secrets in tables that are not attached.

BEGIN;

SET LOCAL client_min_messages = warning;

DO $$
DECLARE
  installed integer;
BEGIN
  -- Of several that install at once, the second finds it done.
  PERFORM pg_advisory_xact_lock(hashtext('hydratecache.migrations'));
  IF to_regclass('hydratecache.migrations') IS NOT NULL THEN
    SELECT max(number) INTO installed FROM hydratecache.migrations;
  END IF;
  IF installed > 1 THEN
    RAISE EXCEPTION 'the schema "hydratecache" is at migration %, which is newer than 1', installed
      USING ERRCODE = 'HC001', HINT = 'Update the program that tried to install it; nothing was changed.';
  END IF;
END
$$;

CREATE SCHEMA IF NOT EXISTS hydratecache;
GRANT USAGE ON SCHEMA hydratecache TO PUBLIC;

CREATE TABLE IF NOT EXISTS hydratecache.migrations (
  number integer PRIMARY KEY,
  installed_at timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT ON hydratecache.migrations TO PUBLIC;

-- Versions: one sequence for all tables, drawn while the row's lock is held, so that the order of a
-- row's versions is the order of its writes. It must not be cached per session. It begins at the
-- time in microseconds, so that one that is made anew is ahead of what caches have seen.
DO $$
BEGIN
  IF to_regclass('hydratecache.versions') IS NULL THEN
    EXECUTE format('CREATE SEQUENCE hydratecache.versions CACHE 1 START WITH %s',
      (extract(epoch FROM clock_timestamp()) * 1000000)::bigint);
  END IF;
END
$$;
-- Whoever writes to an attached table draws from it.
GRANT USAGE ON SEQUENCE hydratecache.versions TO PUBLIC;

-- After a restore, or a failover that lost commits: the sequence may have fallen behind what caches
-- have seen. This sets it to the time in microseconds, and returns where it stands.
CREATE OR REPLACE FUNCTION hydratecache.advance_versions() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
  now_us bigint := (extract(epoch FROM clock_timestamp()) * 1000000)::bigint;
BEGIN
  IF now_us > nextval('hydratecache.versions') THEN
    RETURN setval('hydratecache.versions', now_us);
  END IF;
  RETURN currval('hydratecache.versions');
END
$$;

-- The channel of a topic: its name, or a hash where that is too long for PostgreSQL (63 bytes). No
-- topic contains "=", so no two topics meet.
CREATE OR REPLACE FUNCTION hydratecache.channel(topic text) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
  IF topic IS NULL OR octet_length(topic) > 200
    OR topic !~ '^[A-Za-z0-9_:/-]+(\.[A-Za-z0-9_:/-]+)*$' COLLATE "C"
  THEN
    RAISE EXCEPTION 'the topic % is not legal', coalesce(quote_literal(left(topic, 200)), 'NULL')
      USING ERRCODE = 'HC002', HINT = 'A topic has 1 to 200 letters, digits and . _ - : / without an empty part between dots.';
  END IF;
  RETURN CASE
    WHEN length(topic) <= 63 THEN topic
    ELSE '=' || encode(sha224(convert_to(topic, 'UTF8')), 'hex')
  END;
END
$$;

-- The key of a row with several key columns: the parts with ":" between them; "\" and ":" inside a
-- part have a "\" before them. A single part is the key as it is.
CREATE OR REPLACE FUNCTION hydratecache.key(VARIADIC parts text[]) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT CASE
    WHEN cardinality(parts) = 1 THEN parts[1]
    WHEN array_position(parts, NULL) IS NULL THEN
      (SELECT string_agg(replace(replace(part, '\', '\\'), ':', '\:'), ':' ORDER BY place)
       FROM unnest(parts) WITH ORDINALITY AS t(part, place))
  END
$$;

-- The members that every message begins with. The order is free; readers take any.
CREATE OR REPLACE FUNCTION hydratecache.opening(topic text, version bigint) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
  IF version IS NULL OR version < 0 THEN
    RAISE EXCEPTION 'the version % is not legal', coalesce(version::text, 'NULL')
      USING ERRCODE = 'HC004', HINT = 'Give a number from 0 that grows with every write of the key, or leave it out.';
  END IF;
  RETURN '{"hydratecache":1,"xid":' || pg_current_xact_id()::text || ',"version":' || version::text
    || CASE WHEN length(topic) > 63 THEN ',"topic":"' || topic || '"' ELSE '' END;
END
$$;

-- The member "key".
CREATE OR REPLACE FUNCTION hydratecache.key_member(key text) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
  IF key IS NULL OR key = '' OR octet_length(convert_to(key, 'UTF8')) > 1024 THEN
    RAISE EXCEPTION 'the key has % bytes', coalesce(octet_length(key)::text, 'no')
      USING ERRCODE = 'HC003', HINT = 'A key has 1 to 1,024 bytes of UTF-8.';
  END IF;
  RETURN ',"key":' || to_json(key)::text;
END
$$;

-- A new value for the key. Without a version it gets the next of hydratecache.versions: call it
-- after the write of the row that it belongs to, in the same transaction, while that holds the row's
-- lock. A value too large for a notification travels as an invalidation: receivers load it.
CREATE OR REPLACE FUNCTION hydratecache.publish(
  topic text,
  key text,
  value jsonb,
  ttl interval DEFAULT NULL,
  version bigint DEFAULT nextval('hydratecache.versions')
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  channel text := hydratecache.channel(topic);
  opening text := hydratecache.opening(topic, version) || hydratecache.key_member(key);
  ttl_us numeric := trunc(extract(epoch FROM ttl) * 1000000);
  message text;
BEGIN
  IF value IS NULL THEN
    RAISE EXCEPTION 'the value is NULL'
      USING ERRCODE = 'HC005', HINT = 'Use hydratecache.remove, or the JSON value null.';
  END IF;
  IF ttl_us <= 0 OR ttl_us > 4e18 THEN
    RAISE EXCEPTION 'the TTL % is not legal', ttl
      USING ERRCODE = 'HC006', HINT = 'A TTL is at least a microsecond; NULL means no end.';
  END IF;
  message := opening
    || coalesce(format(',"ttl":[%s,%s]', trunc(extract(epoch FROM clock_timestamp()) * 1000000), ttl_us), '')
    || ',"kind":"put","value":' || value::text || '}';
  IF octet_length(message) > 7999 THEN
    message := opening || ',"kind":"invalidate"}';
  END IF;
  PERFORM pg_notify(channel, message);
END
$$;

-- The key has no value any more.
CREATE OR REPLACE FUNCTION hydratecache.remove(
  topic text,
  key text,
  version bigint DEFAULT nextval('hydratecache.versions')
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify(hydratecache.channel(topic),
    hydratecache.opening(topic, version) || hydratecache.key_member(key) || ',"kind":"remove"}');
END
$$;

-- The whole topic has no value any more: what is not newer than the version goes.
CREATE OR REPLACE FUNCTION hydratecache.clear(
  topic text,
  version bigint DEFAULT nextval('hydratecache.versions')
) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_notify(hydratecache.channel(topic), hydratecache.opening(topic, version) || ',"kind":"clear"}');
END
$$;

-- Triggers of the same table can overtake one another: where a row trigger of the application writes
-- to the table that it belongs to, our triggers of that inner write run before those of the outer
-- one, which then hold older rows. So remember for each table how deep its latest write was in this
-- transaction: what comes from less deep may be overtaken, and its value is not to be trusted.
CREATE OR REPLACE FUNCTION hydratecache.is_overtaken(relation oid, depth integer) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
  setting text := 'hydratecache.depth_' || relation::text;
  deepest integer := coalesce(nullif(current_setting(setting, true), ''), '1')::integer;
BEGIN
  IF depth > deepest THEN
    -- Both end with the transaction.
    PERFORM set_config('hydratecache.nested', 'yes', true), set_config(setting, depth::text, true);
  END IF;
  RETURN depth < deepest;
END
$$;

-- The form of a row's new value: row_to_json writes it in one call.
DO $$
BEGIN
  IF to_regtype('hydratecache.row_put') IS NULL THEN
    CREATE TYPE hydratecache.row_put AS
      (hydratecache integer, xid bigint, version bigint, key text, kind text, value json);
  END IF;
END
$$;

-- The key of a row, from its values in these columns; NULL where it has no such column.
CREATE OR REPLACE FUNCTION hydratecache.row_key(content json, columns text[]) RETURNS text
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
  name text;
  key text := '';
BEGIN
  IF cardinality(columns) = 1 THEN
    RETURN content ->> columns[1];
  END IF;
  FOREACH name IN ARRAY columns LOOP
    key := key || ':' || replace(replace(content ->> name, '\', '\\'), ':', '\:');
  END LOOP;
  RETURN substr(key, 2);
END
$$;

-- Publishes one change of a row, which was "before" and is "after" (NULL: it was not there, it is
-- gone). The arguments are those of its trigger: the topic, its channel, then the key columns. A row
-- whose key no message can carry (empty, or more than 1,024 bytes) is not in any cache: there is
-- nothing to say of it.
CREATE OR REPLACE FUNCTION hydratecache.publish_change(before json, after json, relation oid, arguments text[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  old_key text := hydratecache.row_key(before, arguments[2:]);
  new_key text := hydratecache.row_key(after, arguments[2:]);
  topic text := CASE WHEN arguments[0] = arguments[1] THEN '' ELSE ',"topic":"' || arguments[0] || '"' END;
  opening text := '{"hydratecache":1,"xid":' || pg_current_xact_id()::text || topic;
  is_overtaken boolean := (pg_trigger_depth() > 1 OR current_setting('hydratecache.nested', true) = 'yes')
    AND hydratecache.is_overtaken(relation, pg_trigger_depth());
  ending text;
BEGIN
  IF before IS NOT NULL AND old_key IS NULL OR after IS NOT NULL AND new_key IS NULL THEN
    RAISE EXCEPTION 'the key columns of table % are not what they were when it was attached', relation::regclass
      USING ERRCODE = 'HC008', HINT = 'Attach the table again, or detach it.';
  END IF;
  IF old_key IS DISTINCT FROM new_key AND hydratecache.is_key(old_key) THEN
    ending := CASE WHEN is_overtaken THEN ',"kind":"invalidate"}' ELSE ',"kind":"remove"}' END;
    PERFORM pg_notify(arguments[1], opening || hydratecache.numbered(old_key) || ending);
  END IF;
  IF hydratecache.is_key(new_key) THEN
    opening := opening || hydratecache.numbered(new_key);
    ending := ',"kind":"put","value":' || after::text || '}';
    IF is_overtaken OR octet_length(opening) + octet_length(ending) > 7999 THEN
      ending := ',"kind":"invalidate"}';
    END IF;
    PERFORM pg_notify(arguments[1], opening || ending);
  END IF;
END
$$;

-- Whether a message can carry the key of a row.
CREATE OR REPLACE FUNCTION hydratecache.is_key(key text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT key <> '' AND octet_length(convert_to(key, 'UTF8')) <= 1024
$$;

-- The members "version", the next of all, and "key".
CREATE OR REPLACE FUNCTION hydratecache.numbered(key text) RETURNS text LANGUAGE sql AS $$
  SELECT ',"version":' || nextval('hydratecache.versions')::text || ',"key":' || to_json(key)::text
$$;

-- What the row triggers of an attached table call: this one for INSERT and UPDATE, where the topic is
-- the channel's name.
--
-- It runs for each row that anybody writes. In a short transaction most of what an expression in
-- PL/pgSQL costs is its preparation, which is done once a transaction for every function in it: so
-- there are as few of both as can be. That is why the form has a type of its own; why one condition
-- checks and publishes; why it says txid_current, which is pg_current_xact_id as a number; and why
-- the result, which nobody looks at, is NEW and no expression. Whatever is out of the ordinary goes
-- the long way: a key that has changed, is long or missing, a message too long for a notification,
-- triggers that write to tables themselves.
CREATE OR REPLACE FUNCTION hydratecache.publish_put() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  content json := row_to_json(NEW);
  key text := hydratecache.row_key(content, TG_ARGV[2:]);
  message text := row_to_json(ROW(1, txid_current(), nextval('hydratecache.versions'), key, 'put', content)::hydratecache.row_put)::text;
BEGIN
  IF (CASE
      WHEN octet_length(key) BETWEEN 1 AND 256 AND octet_length(message) <= 7999
        AND coalesce(hydratecache.row_key(row_to_json(OLD), TG_ARGV[2:]), key) = key
        AND pg_trigger_depth() = 1 AND current_setting('hydratecache.nested', true) IS DISTINCT FROM 'yes'
      THEN pg_notify(TG_ARGV[1], message) IS NOT NULL
    END)
  THEN
    RETURN NEW;
  END IF;
  PERFORM hydratecache.publish_change(row_to_json(OLD), content, TG_RELID, TG_ARGV);
  RETURN NEW;
END
$$;

-- The same for any topic, and for DELETE.
CREATE OR REPLACE FUNCTION hydratecache.publish_row() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM hydratecache.publish_change(row_to_json(OLD), row_to_json(NEW), TG_RELID, TG_ARGV);
  RETURN NEW;
END
$$;

-- What the trigger for TRUNCATE calls. Its arguments: the topic and its channel.
CREATE OR REPLACE FUNCTION hydratecache.publish_truncate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  PERFORM hydratecache.clear(TG_ARGV[0]);
  RETURN NULL;
END
$$;

-- The tables that publish.
CREATE OR REPLACE VIEW hydratecache.attached AS
  SELECT tgrelid::regclass AS "table",
         description.content ->> 'topic' AS topic,
         ARRAY(SELECT json_array_elements_text(description.content -> 'key')) AS key_columns
  FROM pg_trigger
  CROSS JOIN LATERAL (SELECT obj_description(oid, 'pg_trigger')::json) AS description(content)
  WHERE tgname = '!hydratecache_truncate';
GRANT SELECT ON hydratecache.attached TO PUBLIC;

-- Makes every INSERT, UPDATE, DELETE and TRUNCATE of the table publish to the topic. Without key
-- columns: those of the primary key. Attaching it again replaces what was there.
--
-- Needs the right TRIGGER on the table, and waits for running writes to it. Hydrate caches after it:
-- what was written before was not published.
CREATE OR REPLACE FUNCTION hydratecache.attach("table" regclass, topic text, VARIADIC key_columns text[] DEFAULT '{}')
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  channel text := hydratecache.channel(topic);
  key text[] := hydratecache.checked_key_columns("table", key_columns);
  other regclass;
  arguments text;
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('hydratecache.attach'));
  SELECT attached."table" INTO other FROM hydratecache.attached
    WHERE attached.topic = attach.topic AND attached."table" <> attach."table";
  IF FOUND THEN
    RAISE EXCEPTION 'the topic % belongs to table %', topic, other
      USING ERRCODE = 'HC007', HINT = 'Give each table a topic of its own, or detach the other table.';
  END IF;
  PERFORM hydratecache.detach("table");
  SELECT format('%L, %L, %s', topic, channel, string_agg(quote_literal(name), ', ' ORDER BY place)) INTO arguments
    FROM unnest(key) WITH ORDINALITY AS t(name, place);
  -- Triggers of one row run in the order of their names: these before the application's own.
  EXECUTE format('CREATE TRIGGER "!hydratecache_put" AFTER INSERT OR UPDATE ON %s FOR EACH ROW
    EXECUTE FUNCTION hydratecache.%I(%s)', "table",
    CASE WHEN topic = channel THEN 'publish_put' ELSE 'publish_row' END, arguments);
  EXECUTE format('CREATE TRIGGER "!hydratecache_remove" AFTER DELETE ON %s FOR EACH ROW
    EXECUTE FUNCTION hydratecache.publish_row(%s)', "table", arguments);
  EXECUTE format('CREATE TRIGGER "!hydratecache_truncate" AFTER TRUNCATE ON %s FOR EACH STATEMENT
    EXECUTE FUNCTION hydratecache.publish_truncate(%L, %L)', "table", topic, channel);
  EXECUTE format('COMMENT ON TRIGGER "!hydratecache_truncate" ON %s IS %L', "table",
    json_build_object('topic', topic, 'key', key));
END
$$;

-- Makes the table publish no more. Caches are not told: what they hold goes stale.
CREATE OR REPLACE FUNCTION hydratecache.detach("table" regclass) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  name text;
BEGIN
  FOR name IN SELECT tgname FROM pg_trigger WHERE tgrelid = "table" AND tgname LIKE '!hydratecache\_%' LOOP
    EXECUTE format('DROP TRIGGER %I ON %s', name, "table");
  END LOOP;
END
$$;

-- The key columns to use, checked: rows must be told apart by them, and their text must not depend
-- on the settings of whoever writes.
CREATE OR REPLACE FUNCTION hydratecache.checked_key_columns("table" regclass, key_columns text[]) RETURNS text[]
LANGUAGE plpgsql STABLE AS $$
DECLARE
  relation pg_class;
  key text[] := key_columns;
  wrong text;
BEGIN
  SELECT * INTO relation FROM pg_class WHERE oid = "table";
  IF relation.relkind <> 'r' OR relation.relispartition OR relation.relpersistence = 't'
    OR EXISTS (SELECT FROM pg_inherits WHERE inhparent = "table" OR inhrelid = "table")
  THEN
    RAISE EXCEPTION '% is not an ordinary table', "table"
      USING ERRCODE = 'HC009', HINT = 'Partitioned, inherited, temporary and foreign tables and views cannot be attached; publish with hydratecache.publish instead.';
  END IF;
  IF cardinality(key) = 0 THEN
    SELECT array_agg(attname ORDER BY place) INTO key
      FROM pg_index, unnest(indkey) WITH ORDINALITY AS t(number, place), pg_attribute
      WHERE indrelid = "table" AND indisprimary AND attrelid = "table" AND attnum = number;
    IF key IS NULL THEN
      RAISE EXCEPTION 'table % has no primary key', "table"
        USING ERRCODE = 'HC010', HINT = 'Name its key columns: hydratecache.attach(table, topic, column, ...).';
    END IF;
  END IF;
  SELECT name INTO wrong FROM unnest(key) AS name WHERE NOT EXISTS (
    SELECT FROM pg_attribute WHERE attrelid = "table" AND attname = name AND attnum > 0 AND NOT attisdropped);
  IF FOUND THEN
    RAISE EXCEPTION 'table % has no column %', "table", coalesce(quote_ident(wrong), 'NULL')
      USING ERRCODE = 'HC011', HINT = 'Name columns as they are in the catalog: without quotes, upper and lower case as they were made.';
  END IF;
  SELECT name INTO wrong FROM unnest(key) AS name JOIN pg_attribute ON attrelid = "table" AND attname = name
    WHERE NOT attnotnull;
  IF FOUND THEN
    RAISE EXCEPTION 'key column % of table % can be NULL', quote_ident(wrong), "table"
      USING ERRCODE = 'HC012', HINT = 'Make it NOT NULL, or name other key columns.';
  END IF;
  SELECT name INTO wrong FROM unnest(key) AS name JOIN pg_attribute ON attrelid = "table" AND attname = name
    WHERE NOT hydratecache.is_key_type(atttypid);
  IF FOUND THEN
    RAISE EXCEPTION 'key column % of table % has a type whose text depends on the session', quote_ident(wrong), "table"
      USING ERRCODE = 'HC013', HINT = 'Key columns are integers, numeric, text, varchar, uuid, boolean, date, timestamp without time zone or enums.';
  END IF;
  IF NOT EXISTS (
    SELECT FROM pg_index
    WHERE indrelid = "table" AND indisunique AND indimmediate AND indisvalid AND indpred IS NULL AND indexprs IS NULL
      AND (SELECT bool_and(attname = ANY (key)) FROM unnest(indkey[0:indnkeyatts - 1]) AS number
           JOIN pg_attribute ON attrelid = "table" AND attnum = number)
  ) THEN
    RAISE EXCEPTION 'the columns % of table % do not tell rows apart', key, "table"
      USING ERRCODE = 'HC014', HINT = 'Name the columns of its primary key or of a unique index that is neither partial nor deferrable.';
  END IF;
  IF NOT has_table_privilege("table", 'TRIGGER') THEN
    RAISE EXCEPTION 'role % may not make triggers on table %', current_user, "table"
      USING ERRCODE = 'HC015', HINT = 'Attach it as its owner, or GRANT TRIGGER on it.';
  END IF;
  RETURN key;
END
$$;

-- Whether the JSON text of a type is the same in every session.
CREATE OR REPLACE FUNCTION hydratecache.is_key_type(type oid) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT CASE typtype
    WHEN 'd' THEN hydratecache.is_key_type(typbasetype)
    WHEN 'e' THEN true
    ELSE pg_type.oid = ANY ('{smallint,integer,bigint,oid,numeric,text,varchar,uuid,boolean,date,timestamp}'::regtype[])
  END
  FROM pg_type WHERE pg_type.oid = type
$$;

INSERT INTO hydratecache.migrations (number) VALUES (1) ON CONFLICT DO NOTHING;

COMMIT;
