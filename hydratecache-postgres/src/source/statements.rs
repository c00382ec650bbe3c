//! What a source asks the server.

use hydratecache::{Error, ErrorKind, Result};
use tokio_postgres::Client;

use crate::error::{Attempt, from_postgres};

/// The statements of one source.
pub(super) struct Statements {
    /// Yields every key and its value as text.
    pub(super) scan: String,
    /// Yields the value of one key as text.
    pub(super) load: String,
    /// How many key columns there are; each is a parameter of `load`, before the key itself.
    parts: usize,
}

/// The key columns of a table, each with the expression of its text, as the triggers write it, and
/// the name of its type. Those that it is attached by come first, then the primary key.
const KEY_COLUMNS: &str = "
    WITH attached AS (
      SELECT obj_description(oid, 'pg_trigger')::json -> 'key' AS key FROM pg_trigger
      WHERE tgrelid = $1::text::regclass AND tgname = '!hydratecache_truncate'
    ), columns AS (
      SELECT name, place FROM attached, json_array_elements_text(key) WITH ORDINALITY AS t(name, place)
      UNION ALL
      SELECT attname, place FROM pg_index, unnest(indkey) WITH ORDINALITY AS t(number, place), pg_attribute
      WHERE indrelid = $1::text::regclass AND indisprimary AND attrelid = indrelid AND attnum = number
        AND NOT EXISTS (SELECT FROM attached)
    )
    SELECT quote_ident(name), format_type(atttypid, NULL), $1::text::regclass::text
    FROM columns JOIN pg_attribute ON attrelid = $1::text::regclass AND attname = name
    ORDER BY place";

impl Statements {
    pub(super) async fn of_table(client: &Client, address: &str, table: &str) -> Result<Self> {
        let rows = client.query(KEY_COLUMNS, &[&table]).await;
        let rows = rows.map_err(|error| from_postgres(Attempt::Read, address, &error))?;
        let Some(first) = rows.first() else {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!(
                    "reading a source on PostgreSQL at {address}: table {table} has no primary \
                     key; attach it by its key columns, or use PostgresSource::query"
                ),
            ));
        };
        let table: String = first.get(2);
        let columns: Vec<(String, String)> =
            rows.iter().map(|row| (row.get(0), row.get(1))).collect();
        Ok(Self::of_columns(&table, &columns))
    }

    /// `table` and the names of `columns` are quoted where they must be.
    fn of_columns(table: &str, columns: &[(String, String)]) -> Self {
        let part = |(name, _): &(String, String)| format!("(to_json(t.{name}) #>> '{{}}')");
        let escaped =
            |column| format!("replace(replace({}, '\\', '\\\\'), ':', '\\:')", part(column));
        let key = match columns {
            [column] => part(column),
            several => several.iter().map(escaped).collect::<Vec<_>>().join(" || ':' || "),
        };
        let is = |(index, (name, type_name)): (usize, &(String, String))| {
            format!("t.{name} = ${}::text::{type_name}", index + 1)
        };
        let mut condition: Vec<String> = columns.iter().enumerate().map(is).collect();
        // Not every text of a value is its key: "01" is 1, and is not the key of a row.
        condition.push(format!("{key} = ${}::text", columns.len() + 1));
        Self {
            scan: format!("SELECT {key}, row_to_json(t)::text FROM {table} AS t"),
            load: format!(
                "SELECT row_to_json(t)::text FROM {table} AS t WHERE {}",
                condition.join(" AND ")
            ),
            parts: columns.len(),
        }
    }

    pub(super) fn of_query(query: &str) -> Self {
        let query = query.trim().trim_end_matches(';');
        Self {
            scan: format!("SELECT t.key::text, t.value::text FROM ({query}) AS t"),
            load: format!("SELECT t.value::text FROM ({query}) AS t WHERE t.key::text = $1::text"),
            parts: 0,
        }
    }

    /// The parameters of `load` for `key`; none if it is no key of this table.
    pub(super) fn parameters(&self, key: &str) -> Option<Vec<String>> {
        let mut parts = match self.parts {
            0 => Vec::new(),
            1 => vec![key.to_owned()],
            _ => parts(key)?,
        };
        if parts.len() != self.parts {
            return None;
        }
        parts.push(key.to_owned());
        Some(parts)
    }
}

/// The parts of a key of several columns.
fn parts(key: &str) -> Option<Vec<String>> {
    let mut parts = vec![String::new()];
    let mut characters = key.chars();
    while let Some(character) = characters.next() {
        match character {
            ':' => parts.push(String::new()),
            '\\' => parts.last_mut()?.push(characters.next()?),
            other => parts.last_mut()?.push(other),
        }
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_of_several_columns_comes_apart_as_it_was_put_together() {
        let apart = |key| parts(key).unwrap_or_default();
        assert_eq!(apart("x\\:y\\\\z:5"), ["x:y\\z", "5"]);
        assert_eq!(apart(":"), ["", ""]);
        assert_eq!(parts("x\\"), None);
        let column = |name: &str, type_name: &str| (name.to_owned(), type_name.to_owned());
        let two = Statements::of_columns("t", &[column("a", "text"), column("b", "bigint")]);
        assert!(two.parameters("1").is_none() && two.parameters("1:2").is_some());
        assert!(two.load.contains("WHERE t.a = $1::text::text AND t.b = $2::text::bigint AND"));
        let one = Statements::of_columns("t", &[column("a", "text")]);
        assert_eq!(one.parameters("1:2").map(|parts| parts.len()), Some(2));
    }
}
