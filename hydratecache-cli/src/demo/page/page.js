// Shows each snapshot of the fleet, and sends what its user does. Snapshots come some twenty times a
// second whatever the fleet's load is; of those that come between two frames the latest is drawn.
"use strict";

const byId = (id) => document.getElementById(id);
const whole = new Intl.NumberFormat("en");

const BADGES = {
  fresh: "fresh",
  late: "late",
  disrupted: "suspect: disrupted",
  repairing: "suspect: repairing",
  connecting: "connecting",
  filling: "being filled",
  dead: "dead",
  stopped: "ended",
};

// With the standing that a phase of the broker looks like.
const PHASES = {
  up: ["fresh", "up"],
  dying: ["filling", "is being killed"],
  dead: ["dead", "dead"],
  starting: ["filling", "is being started"],
};

// People read a list that stands still for a moment.
const MESSAGES_EVERY_MS = 250;
const ANNOUNCE_EVERY_MS = 1000;
const EVENTS_SHOWN = 40;

let latest = null;
let isDrawing = false;

// --- Text ---------------------------------------------------------------------------------------

const written = new WeakMap();

// Touches the page only where something changes.
function write(element, text) {
  if (written.get(element) !== text) {
    written.set(element, text);
    element.textContent = text;
  }
}

function mark(element, name, value) {
  if (element.dataset[name] !== value) element.dataset[name] = value;
}

function micros(count) {
  if (count === 0) return "–";
  if (count < 1000) return `${count} µs`;
  if (count < 10_000) return `${(count / 1000).toFixed(1)} ms`;
  if (count < 1_000_000) return `${Math.round(count / 1000)} ms`;
  return `${(count / 1_000_000).toFixed(2)} s`;
}

function millis(count) {
  if (count < 1000) return `${Math.max(10, Math.ceil(count / 10) * 10)} ms`;
  return `${(count / 1000).toFixed(1)} s`;
}

function minutes(seconds) {
  const rest = String(seconds % 60).padStart(2, "0");
  return `${Math.floor(seconds / 60)}:${rest}`;
}

function counted(count, what) {
  return `${whole.format(count)} ${what}${count === 1 ? "" : "s"}`;
}

// "1, 3 to 5" of [1, 3, 4, 5].
function ranges(numbers) {
  const runs = [];
  for (const number of numbers) {
    const run = runs.at(-1);
    if (run && run[1] === number - 1) run[1] = number;
    else runs.push([number, number]);
  }
  return runs.map(([first, last]) => (first === last ? `${first}` : `${first} to ${last}`)).join(", ");
}

// --- What is done ---------------------------------------------------------------------------------

async function act(action) {
  const refusal = byId("refusal");
  try {
    const answer = await fetch("/act", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(action),
    });
    refusal.hidden = answer.ok;
    if (!answer.ok) refusal.textContent = `That was not done: ${await answer.text()}`;
  } catch {
    refusal.hidden = false;
    refusal.textContent = "That was not done: the demo cannot be reached.";
  }
}

// A button that cannot be used says so, and keeps the focus of whoever is on it.
function onPress(button, press) {
  button.addEventListener("click", () => {
    if (latest && button.getAttribute("aria-disabled") !== "true") press();
  });
}

function label(button, text, whose, isOn) {
  write(button, text);
  mark(button, "on", String(isOn));
  const full = whose ? `${text}, ${whose}` : text;
  if (button.getAttribute("aria-label") !== full) button.setAttribute("aria-label", full);
}

function enable(button, isEnabled) {
  const value = String(!isEnabled);
  if (button.getAttribute("aria-disabled") !== value) button.setAttribute("aria-disabled", value);
}

// The two buttons of a link: `harm` is what is wrong with it now.
class LinkButtons {
  constructor(within, number, whose) {
    this.cut = within.querySelector('[data-do="cut"]');
    this.slow = within.querySelector('[data-do="slow"]');
    this.whose = whose;
    this.harm = { cut: false, slow: false };
    const set = (change) => act({ target: "link", number, ...this.harm, ...change });
    onPress(this.cut, () => set({ cut: !this.harm.cut }));
    onPress(this.slow, () => set({ slow: !this.harm.slow }));
  }

  draw(harm, canFail) {
    this.harm = harm;
    label(this.cut, harm.cut ? "Heal link" : "Cut link", this.whose, harm.cut);
    label(this.slow, harm.slow ? "Full speed" : "Slow link", this.whose, harm.slow);
    enable(this.cut, canFail);
    enable(this.slow, canFail);
  }
}

// --- A replica ------------------------------------------------------------------------------------

class Tile {
  constructor(number) {
    const name = `replica ${number}`;
    const tile = byId("tile").content.cloneNode(true).firstElementChild;
    const heading = tile.querySelector("h3");
    tile.id = `replica-${number}`;
    heading.id = `${tile.id}-name`;
    heading.textContent = `Replica ${number}`;
    tile.setAttribute("aria-labelledby", heading.id);
    this.element = tile;
    this.name = name;
    this.badge = tile.querySelector(".badge");
    this.prose = tile.querySelector(".prose");
    this.link = new LinkButtons(tile, number, name);
    this.life = tile.querySelector('[data-do="life"]');
    this.counts = {};
    for (const count of tile.querySelectorAll("[data-count]")) this.counts[count.dataset.count] = count;
    onPress(this.life, () => act({ target: "replica", number, lives: this.isDead }));
    byId("tiles").append(tile);
  }

  draw(replica, canFail) {
    this.isDead = replica.standing === "dead";
    mark(this.element, "standing", replica.standing);
    write(this.badge, BADGES[replica.standing]);
    write(this.prose, prose(replica));
    write(this.counts.applied, whole.format(replica.applied));
    write(this.counts.behind, this.isDead ? "–" : whole.format(replica.behind));
    write(this.counts.gaps, whole.format(replica.gaps));
    write(this.counts.p99, micros(replica.propagation.p99));
    this.link.draw(replica.link, canFail);
    label(this.life, this.isDead ? "Start" : "Kill", this.name, this.isDead);
  }
}

function prose(replica) {
  const since = millis(replica.suspect_millis ?? 0);
  const proven = replica.proven_millis === null ? null : millis(replica.proven_millis);
  switch (replica.standing) {
    case "fresh":
      if (proven === null) return "It is live; the first proof is on its way.";
      return `Every write older than ${proven} is proven to be here.`;
    case "late":
      return `${replica.link.slow ? "Its link is slow: writes" : "Writes"} of the last ${proven} may be missing.`;
    case "disrupted":
      return `${replica.link.cut ? "Its link is cut" : "Its link is lost"}, for ${since} now. Reads go on, and may be stale.`;
    case "repairing":
      return "The link is back. It fetches what it missed; until then reads may be stale.";
    case "connecting":
      return replica.trouble ? `It cannot connect (${replica.trouble}), and tries again.` : "It connects and subscribes.";
    case "filling":
      return "It takes a copy from another replica, or reads the database.";
    case "dead":
      return "It was killed, with its cache and its connection.";
    default:
      return "Its hydration ended by itself.";
  }
}

const tiles = [];

function drawTiles(replicas, canFail) {
  while (tiles.length < replicas.length) tiles.push(new Tile(tiles.length + 1));
  replicas.forEach((replica, index) => tiles[index].draw(replica, canFail));
}

// --- The fleet ------------------------------------------------------------------------------------

function drawSummary(replicas) {
  const all = replicas.length;
  const fresh = replicas.filter((replica) => replica.standing === "fresh");
  const summary =
    fresh.length === all ? `All ${all} replicas are fresh.` : `${fresh.length} of ${all} replicas are fresh.`;
  write(byId("summary"), summary);
  write(byId("detail"), fresh.length === all ? bound(fresh) : others(replicas));
  const title = `${fresh.length}/${all} fresh · hydratecache`;
  if (document.title !== title) document.title = title;
}

function bound(fresh) {
  if (fresh.some((replica) => replica.proven_millis === null)) return "How fresh they are is about to be proven.";
  const oldest = Math.max(...fresh.map((replica) => replica.proven_millis));
  return `Every write that the broker accepted more than ${millis(oldest)} ago is in every one of them.`;
}

function others(replicas) {
  const groups = new Map();
  for (const { number, standing } of replicas) {
    if (standing !== "fresh") groups.set(standing, [...(groups.get(standing) ?? []), number]);
  }
  const words = [...groups].map(([standing, numbers]) => {
    const who = numbers.length === 1 ? `Replica ${numbers[0]}` : `Replicas ${ranges(numbers)}`;
    return `${who}: ${BADGES[standing]}.`;
  });
  return words.join(" ");
}

function drawFigures(fleet) {
  const { propagation, database } = fleet;
  const repairs = fleet.repairs_by_publisher + fleet.repairs_by_replica + fleet.repairs_by_database;
  write(byId("p50"), micros(propagation.p50));
  write(byId("p99"), micros(propagation.p99));
  write(byId("gaps"), whole.format(fleet.gaps));
  write(
    byId("gaps-note"),
    `${counted(fleet.missed, "message")} known to be lost, ${counted(fleet.disruptions, "time")} a link was lost`,
  );
  write(byId("repairs"), whole.format(repairs));
  write(
    byId("repairs-note"),
    `${whole.format(fleet.repairs_by_publisher)} by the publisher, ${whole.format(fleet.repairs_by_replica)} by another replica, ${whole.format(fleet.repairs_by_database)} by the database`,
  );
  write(byId("avoided"), whole.format(fleet.reads_avoided));
  write(byId("avoided-note"), `of ${whole.format(fleet.reads)}, which would ask the database if writes only invalidated`);
  write(byId("database"), whole.format(database.scans + database.loads));
  write(byId("database-note"), `${counted(database.scans, "scan")} of all rows, ${counted(database.loads, "load")} of one`);
}

const writerLink = new LinkButtons(byId("writer-link"), 0, "writer");
const rates = [...document.querySelectorAll('input[name="rate"]')];
let rateDrawn = null;

function drawWriter(writer, canFail) {
  write(byId("published"), whole.format(writer.published));
  write(byId("failed"), whole.format(writer.failed));
  write(byId("per-second"), whole.format(writer.per_second));
  writerLink.draw(writer.link, canFail);
  if (writer.rate !== rateDrawn) {
    rateDrawn = writer.rate;
    for (const rate of rates) rate.checked = Number(rate.value) === writer.rate;
  }
  const [standing, words] = writer.trouble
    ? ["disrupted", `publishing fails: ${writer.trouble}`]
    : writer.waits
      ? ["late", "waits for the broker"]
      : writer.rate === 0
        ? ["dead", "pauses"]
        : ["fresh", "writes"];
  mark(byId("writer-state"), "standing", standing);
  write(byId("writer-state"), words);
}

function drawBroker(broker, harms) {
  const [standing, words] = PHASES[broker.phase];
  const isUp = broker.phase === "up" || broker.phase === "dying";
  write(byId("broker-name"), `Broker: ${broker.name}`);
  mark(byId("broker-state"), "standing", standing);
  write(byId("broker-state"), words);
  write(byId("broker-words"), brokerWords(broker));
  write(byId("links-are-cut"), String(harms.filter((harm) => harm.cut).length));
  write(byId("links-are-slow"), String(harms.filter((harm) => harm.slow).length));
  const life = byId("broker-life");
  label(life, isUp ? "Kill broker" : "Start broker", "", !isUp);
  enable(life, broker.can_be_killed && ["up", "dead"].includes(broker.phase));
  enable(byId("links-cut"), broker.links_can_fail && harms.some((harm) => !harm.cut));
  enable(byId("links-slow"), broker.links_can_fail && harms.some((harm) => !harm.slow));
  enable(byId("links-heal"), broker.links_can_fail && harms.some((harm) => harm.cut || harm.slow));
}

function brokerWords(broker) {
  if (broker.trouble) return `It could not be changed: ${broker.trouble}`;
  if (broker.phase !== "up") return "Nothing can be published, and nobody hears anything.";
  if (!broker.can_be_killed) return "It is yours: it is not killed, and its links are left alone.";
  if (!broker.links_can_fail) return "It can be killed. Links to it cannot be harmed: clients go straight to it.";
  return "It hands every message to every replica. A slow link adds 0.5 s each way.";
}

// --- Streams --------------------------------------------------------------------------------------

function line(parts) {
  const item = document.createElement("li");
  for (const [name, text] of parts) {
    const part = document.createElement("span");
    part.className = name;
    part.textContent = text;
    item.append(part);
  }
  return item;
}

let lastEvent = null;
let unsaid = [];
let saysLater = null;

function drawEvents(events) {
  const list = byId("events");
  const newest = events.at(-1)?.number ?? 0;
  // A demo that was started again counts from 1.
  if (lastEvent !== null && newest < lastEvent) {
    list.replaceChildren();
    lastEvent = 0;
  }
  for (const event of events) {
    if (event.number <= (lastEvent ?? 0)) continue;
    list.prepend(line([["when", `${event.seconds.toFixed(1)} s`], ["what", event.text]]));
    if (lastEvent !== null) unsaid.push(event.text);
  }
  while (list.children.length > EVENTS_SHOWN) list.lastElementChild.remove();
  lastEvent = newest;
  announce();
}

// What happens together is said together. What was there when the page was opened is not said.
function announce() {
  if (unsaid.length === 0 || saysLater !== null) return;
  const more = unsaid.length - 4;
  const said = unsaid.slice(-4).join("; ");
  byId("announcer").textContent = more > 0 ? `${said}; and ${more} more` : said;
  unsaid = [];
  saysLater = setTimeout(() => {
    saysLater = null;
    announce();
  }, ANNOUNCE_EVERY_MS);
}

let isHeld = false;
let messagesDrawnAt = -Infinity;

function drawMessages(messages, count, now) {
  if (isHeld || now - messagesDrawnAt < MESSAGES_EVERY_MS) return;
  messagesDrawnAt = now;
  const list = byId("messages");
  while (list.children.length < messages.length) list.append(line([["when", ""], ["what", ""], ["value", ""]]));
  messages.toReversed().forEach((message, index) => {
    const [number, what, value] = list.children[index].children;
    write(number, whole.format(message.number));
    write(what, `${message.city}, ${message.country}`);
    write(value, whole.format(message.people));
  });
  write(
    byId("messages-note"),
    `The latest ${messages.length} of ${whole.format(count)}, with how many people live there. All are counted, not all are shown.`,
  );
}

byId("hold").addEventListener("click", () => {
  isHeld = !isHeld;
  byId("hold").setAttribute("aria-pressed", String(isHeld));
});

// --- All of it ------------------------------------------------------------------------------------

function draw(now) {
  isDrawing = false;
  const { writer, broker, fleet, replicas } = latest;
  const canFail = broker.links_can_fail;
  drawSummary(replicas);
  drawWriter(writer, canFail);
  drawBroker(broker, [writer.link, ...replicas.map((replica) => replica.link)]);
  drawFigures(fleet);
  drawTiles(replicas, canFail);
  drawEvents(latest.events);
  drawMessages(latest.messages, writer.written, now);
  drawConnection("open", `Live for ${minutes(latest.seconds)}`);
}

function drawConnection(state, words) {
  mark(byId("connection"), "state", state);
  write(byId("connection"), words);
}

function listen() {
  const events = new EventSource("/events");
  events.addEventListener("message", (event) => {
    const snapshot = JSON.parse(event.data);
    if (snapshot === null) return;
    latest = snapshot;
    if (!isDrawing) {
      isDrawing = true;
      requestAnimationFrame(draw);
    }
  });
  events.addEventListener("error", () => {
    drawConnection("lost", "Not connected: the demo ended, or cannot be reached. Trying again");
    // A browser gives up where the answer was no stream of events.
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 2000);
  });
}

for (const rate of rates) {
  rate.addEventListener("change", () => act({ target: "writer", rate: Number(rate.value) }));
}
onPress(byId("broker-life"), () => act({ target: "broker", lives: latest.broker.phase === "dead" }));
onPress(byId("links-cut"), () => act({ target: "links", cut: true, slow: false }));
onPress(byId("links-slow"), () => act({ target: "links", cut: false, slow: true }));
onPress(byId("links-heal"), () => act({ target: "links", cut: false, slow: false }));
listen();
