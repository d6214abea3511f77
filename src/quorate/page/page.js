// The page: which run is shown, what is said of it, and when it is drawn.

import { nodeButtons, runButtons } from "./acts.js";
import { clockText, durationText, sign, svg } from "./drawing.js";
import { fetchJson, keepToken, Missing, Stream, Unauthorized } from "./feed.js";
import { describe, Lanes, legend } from "./lanes.js";
import { isGone, Model, now } from "./model.js";

const by = (id) => document.getElementById(id);
const WORLD_HEIGHT = 180;
const EVENTS_SHOWN = 100;
const MEASURES_MAX = 100;
// Places that nobody has taken: a run may have billions of them.
const FREE_DRAWN_MAX = 4096;

const runs = new Map();
let model = null;
let stream = null;
let chosen = new URLSearchParams(location.search).get("run") ?? "";
let clockOffset = 0;
let rights = { read: true, act: false, operators: false };
let fetching = false;
let later = [];
const lanes = new Lanes({ lanes: by("lanes"), sheet: by("sheet"), chart: by("chart"), axis: by("axis") }, tellSelected);

const coordinatorNow = () => Date.now() / 1000 + clockOffset;

function noteTime(at) {
  clockOffset = at - Date.now() / 1000;
}

// What comes from the coordinator

const handlers = {
  link: showLink,
  unauthorized: () => showLogin(""),
  event(name, data) {
    const begun = performance.now();
    take(name, JSON.parse(data));
    if (name === "diff") measure(begun);
  },
};

function take(name, content) {
  if (name === "coordinator") showCoordinator(content);
  else if (name === "runs") {
    runs.clear();
    for (const brief of content) runs.set(brief.run, brief);
    if (!runs.has(chosen)) follow("gone", { run: chosen });
    showRuns();
    chooseSome();
  } else if (name === "run") {
    runs.set(content.run, content);
    showRuns();
    chooseSome();
  } else {
    if (name === "gone") {
      runs.delete(content.run);
      showRuns();
    } else if (name === "diff") noteTime(content.now);
    if (name === "behind" || content.run === chosen) follow(name, content);
  }
}

/** Follows what is told of the chosen run; while a snapshot is on its way, which may be older, it waits. */
function follow(name, content) {
  if (fetching) later.push([name, content]);
  else if (name === "gone") drop();
  else if (name === "diff" && model?.apply(content)) draw();
  else if (name !== "version" || !model?.is(content)) fetchAll();
}

/** Measures how long an update took, its layout included; drawing pixels is the browser's own. */
function measure(begun) {
  document.body.getBoundingClientRect();
  performance.measure("quorate-update", { start: begun, end: performance.now() });
  if (performance.getEntriesByName("quorate-update").length > MEASURES_MAX) {
    performance.clearMeasures("quorate-update");
  }
}

async function fetchAll() {
  fetching = true;
  const run = chosen;
  try {
    const snapshot = await fetchJson(`timeline.json?run=${encodeURIComponent(run)}`);
    if (run === chosen) {
      noteTime(snapshot.now);
      model = new Model(snapshot);
      showModel();
    }
  } catch (error) {
    if (error instanceof Unauthorized) showLogin("");
    if (error instanceof Missing && run === chosen) drop();
  } finally {
    fetching = false;
  }
  const told = later;
  later = [];
  for (const [name, content] of told) follow(name, content);
}

// What is shown

function chooseSome() {
  if (chosen || !runs.size) return;
  choose([...runs.keys()].at(-1));
}

function choose(run) {
  chosen = run;
  later = [];
  history.replaceState(null, "", run ? `?run=${encodeURIComponent(run)}` : "/");
  stream?.stop();
  stream = new Stream(run, handlers);
  showRuns();
}

function showLink(state) {
  by("link").dataset.state = state;
  by("link").lastChild.textContent = { live: "live", lost: "no connection", connecting: "connecting" }[state];
}

function showCoordinator({ name, hindrance, now: at }) {
  noteTime(at);
  // HOST:PID would look like an endpoint; `quorate status` says it in these words too.
  by("coordinator").textContent = name.replace(/:(\d+)$/, " (process $1)");
  by("banner").hidden = !hindrance;
  by("banner").textContent = hindrance ? `Nobody is answered here now: ${hindrance}.` : "";
}

function showRuns() {
  const others = [...runs.keys()].some((run) => run !== chosen);
  by("house").dataset.runs = others ? "many" : "one";
  const listed = [...runs.values()].sort((a, b) => a.run.localeCompare(b.run, "en", { numeric: true }));
  const focused = document.activeElement?.dataset?.run;
  by("run-list").replaceChildren(...listed.map(runItem));
  if (focused) by("run-list").querySelector(`[data-run="${CSS.escape(focused)}"]`)?.focus();
  by("empty").hidden = runs.size > 0 && (runs.has(chosen) || model?.run === chosen);
  by("run").hidden = !model || runs.size === 0;
}

function runItem(brief) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  button.dataset.run = brief.run;
  button.setAttribute("aria-current", brief.run === chosen);
  const name = document.createElement("span");
  name.className = "name";
  name.textContent = brief.run;
  const nodes = document.createElement("span");
  nodes.className = "count";
  nodes.textContent = count(brief.nodes);
  nodes.title = `${brief.phase}, round ${brief.round}`;
  button.append(sign(brief.phase), name, nodes);
  button.onclick = () => choose(brief.run);
  item.append(button);
  return item;
}

/** Shows nothing more of a run that is not here any more. */
function drop() {
  if (!model) return;
  by("empty").textContent = `Run ${chosen} is not here any more: it was forgotten some time after its end, or this `
    + "coordinator has begun anew or does not decide now. Should the run come back, it appears by itself.";
  document.title = "quorate";
  model = null;
  showRuns();
}

function showModel() {
  by("run").hidden = false;
  const kept = by("fold").dataset.run === model.run ? by("fold").value : null;
  const labels = model.labels().map((key) => [`label:${key}`, key]);
  const options = [["", "nothing"], ["state", "state"], ...labels].map(([value, text]) => new Option(text, value));
  by("fold").replaceChildren(...options);
  by("fold").dataset.run = model.run;
  by("fold").value = kept ?? model.defaultFold();
  by("acts").replaceChildren(...(rights.act ? runButtons(() => model) : []));
  by("acts").hidden = !rights.act;
  lanes.show(model, by("fold").value, Number(by("span").value));
  draw();
}

let chosenFold = false;

function draw() {
  const fold = model.defaultFold();
  if (!chosenFold && fold !== lanes.fold && (fold !== "") !== (lanes.fold !== "")) {
    by("fold").value = fold;
    lanes.show(model, fold, lanes.span);
  }
  const { head } = model;
  document.title = `${head.run}, ${head.phase}, quorate`;
  by("run-id").textContent = head.run;
  by("phase").replaceChildren(sign(head.phase), head.held === null ? head.phase : `${head.phase}, held`);
  showFigures(head);
  showWorld(head);
  showEvents();
  tick();
}

/** What changes with time alone. */
function tick() {
  if (!model) return;
  const at = coordinatorNow();
  showSentence(model.head, at);
  lanes.draw(at);
}

function showSentence(head, at) {
  const round = model.rounds.at(-1);
  const parts = [];
  if (head.phase === "closed") parts.push(strong("Closed: "), head.closed_reason);
  else if (head.waiting_for) {
    const since = head.waiting_since === null ? "" : `, since ${durationText(at - head.waiting_since)}`;
    parts.push(strong(capitalized(head.waiting_for)), `${since}.`);
  } else if (round?.completed) parts.push(`Round ${round.round} has stood for ${durationText(at - round.completed)}: ${round.why}.`);
  if (head.held !== null) parts.push(` An operator holds rounds open: ${head.held}.`);
  by("sentence").replaceChildren(...parts);
}

function strong(text) {
  const element = document.createElement("strong");
  element.textContent = text;
  return element;
}

const count = (number) => number.toLocaleString("en");
const capitalized = (text) => text.charAt(0).toUpperCase() + text.slice(1);

function showFigures(head) {
  const { counts } = head;
  const present = (counts.participant ?? 0) + (counts.joined ?? 0);
  const most = head.desired_nodes ?? head.max_nodes;
  figure("world", present, ` of ${head.min_nodes === most ? most : `${head.min_nodes} to ${most}`}`);
  figure("round", head.round);
  figure("waiting", counts.waiting ?? 0);
  figure("spares", counts.spare ?? 0);
  figure("lost", head.lost, "", true);
  figure("cut", head.cut_off);
}

function figure(name, value, after = "", alarming = false) {
  const element = by(`figure-${name}`);
  const small = document.createElement("small");
  small.textContent = after;
  element.dataset.zero = value === 0 && !after && name !== "round";
  element.dataset.alarm = alarming && value > 0;
  element.replaceChildren(count(value), small);
}

/** The places of the world, one cell each: taken, kept for a survivor, or free. */
function showWorld(head) {
  const ranks = [];
  let kept = 0;
  for (const lane of model.lanes.values()) {
    const [, state, rank] = now(lane);
    if (rank !== null && state === "participant") ranks[rank] = lane;
    else if (state === "returning") kept += 1;
  }
  const joined = head.counts.joined ?? 0;
  const taken = Object.keys(ranks).length;
  const size = Math.max(ranks.length, joined + kept, head.desired_nodes ?? head.max_nodes ?? 0);
  const drawn = Math.min(size, Math.max(ranks.length, joined + kept) + FREE_DRAWN_MAX);
  const width = by("world").clientWidth || 600;
  const cell = cellSize(drawn, width);
  const across = Math.max(1, Math.floor(width / cell));
  const paths = { participant: "", joined: "", kept: "", free: "" };
  const texts = [];
  const gap = cell > 12 ? 3 : cell > 5 ? 1.5 : 0.7;
  for (let place = 0; place < drawn; place++) {
    const x = (place % across) * cell;
    const y = Math.floor(place / across) * cell;
    const kind = ranks[place] ? "participant" : place < joined ? "joined" : place < joined + kept ? "kept" : "free";
    paths[kind] += `M${x + 0.5},${y + 0.5}h${cell - gap}v${cell - gap}h${gap - cell}z`;
    if (cell >= 22 && ranks[place]) texts.push(svg("text", { x: x + (cell - gap) / 2 + 0.5, y: y + cell / 2 + 3 }, String(place)));
  }
  const classes = { participant: "s-participant", joined: "s-joined", kept: "kept", free: "free" };
  const shapes = Object.entries(paths).map(([kind, d]) => svg("path", { class: classes[kind], d }));
  by("world").replaceChildren(...shapes, ...texts);
  const note = worldText(head, taken, joined, kept, size);
  by("world-note").textContent = drawn < size ? `${note} The first ${count(drawn)} are drawn.` : note;
}

function worldText(head, taken, joined, kept, size) {
  const free = Math.max(size - Math.max(taken, joined) - kept, 0);
  const parts = head.phase === "complete" ? [`${count(taken)} with a rank`] : [`${count(joined)} joined`];
  if (head.lost) parts.push(`${count(head.lost)} lost`);
  if (kept) parts.push(`${count(kept)} awaited`);
  if (free - (head.phase === "complete" ? head.lost : 0) > 0) parts.push(`${count(free)} free`);
  return `Places by rank: ${parts.join(", ")}.`;
}

function cellSize(count, width) {
  for (const cell of [34, 28, 22, 16, 12, 9, 7, 6, 5, 4, 3, 2]) {
    if (Math.ceil(count / Math.floor(width / cell)) * cell <= WORLD_HEIGHT) return cell;
  }
  return 1.5;
}

let shownEvents = "";

function showEvents() {
  const last = model.events.at(-1);
  const stamp = `${model.run} ${model.events.length} ${last?.at} ${last?.text}`;
  if (stamp === shownEvents) return;
  shownEvents = stamp;
  const items = model.events.slice(-EVENTS_SHOWN).reverse().map((event) => {
    const item = document.createElement("li");
    const time = document.createElement("time");
    time.textContent = clockText(event.at);
    time.dateTime = new Date(event.at * 1000).toISOString();
    const text = document.createElement("span");
    text.textContent = event.text;
    item.append(time, sign(event.kind), text);
    return item;
  });
  by("events").replaceChildren(...items);
}

let told = "";
let buttonsFor = "";

/** What may be done to the selected node. */
function showNodeButtons(row) {
  const lane = rights.act && row?.lane && !isGone(row.lane) ? row.lane : null;
  if (buttonsFor === (lane?.node ?? "")) return;
  buttonsFor = lane?.node ?? "";
  by("node-acts").replaceChildren(...(lane ? nodeButtons(model.run, lane.node) : []));
}

function tellSelected(row) {
  showNodeButtons(row);
  if (!row) {
    if (told !== "") by("detail").replaceChildren();
    told = "";
    return;
  }
  const [name, text] = describe(row, lanes.at);
  // Durations move every second; a screen reader is told what has changed besides.
  by("detail").setAttribute("aria-live", told === name ? "off" : "polite");
  told = name;
  by("detail").replaceChildren(strong(name), text);
}

// What a person does

function showLogin(error) {
  by("login").hidden = false;
  by("house").hidden = true;
  by("login-error").textContent = error;
  by("token").focus();
}

by("login").addEventListener("submit", (event) => {
  event.preventDefault();
  keepToken(by("token").value.trim());
  by("token").value = "";
  begin("The coordinator does not accept this token.");
});

by("fold").addEventListener("change", () => {
  chosenFold = true;
  lanes.show(model, by("fold").value, lanes.span);
  tick();
});

by("span").addEventListener("change", () => {
  lanes.span = Number(by("span").value);
  tick();
});

const THEMES = ["system", "light", "dark"];

function applyTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  by("theme").textContent = `Theme: ${theme}`;
  localStorage.setItem("quorate-theme", theme);
}

by("theme").addEventListener("click", () => {
  const present = localStorage.getItem("quorate-theme") ?? "system";
  applyTheme(THEMES[(THEMES.indexOf(present) + 1) % THEMES.length]);
});

async function begin(refused) {
  try {
    rights = await fetchJson("access");
  } catch {
    // The stream says that there is no connection, and tries again.
  }
  if (!rights.read) {
    showLogin(refused);
    return;
  }
  by("login").hidden = true;
  by("house").hidden = false;
  choose(chosen);
}

new ResizeObserver(() => model && showWorld(model.head)).observe(by("world"));
applyTheme(localStorage.getItem("quorate-theme") ?? "system");
by("legend").replaceChildren(...legend());
setInterval(tick, 1000);
begin("");
