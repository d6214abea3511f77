// One run as the coordinator tells it: a snapshot, and the diffs since. Knows nothing of the page.

const names = new Intl.Collator("en", { numeric: true });

// In the order in which they are listed.
export const STATES = {
  participant: "participant",
  joined: "joined",
  returning: "awaited",
  straggler: "late",
  waiting: "waiting",
  spare: "spare",
  attached: "attached",
  lost: "lost",
  gone: "gone",
};

// Those that are nouns.
const COUNTED = { participant: ["participant", "participants"], spare: ["spare", "spares"] };

const ORDER = Object.fromEntries(Object.keys(STATES).map((state, index) => [state, index]));

export const FOLD_ABOVE = 64;

// A label with more values than this does not make a list shorter.
const VALUES_MAX = 200;

export class Model {
  constructor(snapshot) {
    this.run = snapshot.run;
    this.timeline = snapshot.timeline;
    this.version = snapshot.version;
    this.head = snapshot.head;
    this.rounds = snapshot.rounds;
    this.events = snapshot.events;
    this.lanes = new Map(snapshot.lanes.map((lane) => [lane.lane, lane]));
    this.reshaped = true;
    this.forget();
  }

  /** Forgets what was worked out from the lanes that there are. */
  forget() {
    this.sorted = false;
    this.labelled = null;
    this.first = null;
  }

  /** Whether this is a timeline at a version; each timeline counts its own. */
  is({ timeline, version }) {
    return this.timeline === timeline && this.version === version;
  }

  /** Adds a diff; returns false if it does not fit, and everything has to be fetched. */
  apply(diff) {
    if (diff.timeline !== this.timeline) return false;
    if (diff.version <= this.version) return true;
    if (diff.from !== this.version) return false;
    this.version = diff.version;
    this.head = diff.head;
    for (const lane of diff.lanes ?? []) this.lanes.set(lane.lane, lane);
    for (const [number, ...step] of diff.steps ?? []) {
      const lane = this.lanes.get(number);
      lane.steps.push(step);
      if (lane.steps.length > 32) lane.steps.shift();
    }
    for (const [number, ...marks] of diff.marks ?? []) this.lanes.get(number).marks = marks;
    for (const number of diff.forgotten ?? []) this.lanes.delete(number);
    if (diff.lanes || diff.forgotten) this.forget();
    for (const round of diff.rounds ?? []) this.addRound(round);
    this.events.push(...(diff.events ?? []));
    this.events.splice(0, this.events.length - 200);
    this.reshaped = true;
    return true;
  }

  addRound(round) {
    const index = this.rounds.findIndex((r) => r.epoch === round.epoch && r.round === round.round);
    if (index >= 0) this.rounds[index] = round;
    else this.rounds.push(round);
    if (this.rounds.length > 256) this.rounds.shift();
  }

  /** When the first thing happened that is known. */
  begin() {
    if (this.first !== null) return this.first;
    this.first = Infinity;
    for (const lane of this.lanes.values()) this.first = Math.min(this.first, lane.steps[0][0]);
    return this.first;
  }

  /** The labels by which folding makes sense. */
  labels() {
    if (this.labelled !== null) return this.labelled;
    const values = new Map();
    for (const lane of this.lanes.values()) {
      for (const [key, value] of Object.entries(lane.labels)) {
        if (!values.has(key)) values.set(key, new Set());
        values.get(key).add(value);
      }
    }
    this.labelled = [...values].filter(([, found]) => found.size <= VALUES_MAX).map(([key]) => key);
    return this.labelled;
  }

  /** What to fold by if nobody has chosen: nothing, a label, or the state. */
  defaultFold() {
    if (this.lanes.size <= FOLD_ABOVE) return "";
    const [label] = this.labels();
    return label === undefined ? "state" : `label:${label}`;
  }

  /** The lanes in groups: a list of {key, name, lanes}; one nameless group if nothing is folded. */
  groups(fold) {
    this.nameOrder();
    const groups = new Map();
    for (const lane of this.lanes.values()) {
      const key = keyOf(lane, fold);
      if (!groups.has(key)) groups.set(key, { key, name: nameOf(key, fold), lanes: [] });
      groups.get(key).lanes.push(lane);
    }
    const found = [...groups.values()];
    if (fold === "state") return found.sort((a, b) => ORDER[a.key] - ORDER[b.key]);
    return found.sort((a, b) => names.compare(a.key, b.key));
  }

  nameOrder() {
    if (this.sorted) return;
    this.sorted = true;
    const lanes = [...this.lanes.values()].sort((a, b) => names.compare(a.node, b.node));
    for (const [index, lane] of lanes.entries()) lane.place = index;
  }
}

export function now(lane) {
  return lane.steps[lane.steps.length - 1];
}

export function isConnected(lane) {
  return lane.marks[0] || isGone(lane);
}

/** Why the lane's node leaves at the next regroup; empty if it stays. */
export function draining(lane) {
  return isGone(lane) ? "" : lane.marks[1];
}

export function isGone(lane) {
  const state = now(lane)[1];
  return state === "lost" || state === "gone";
}

/** Those with a rank first, in its order; then by state, and by name. */
export function compareLanes(a, b) {
  const [, stateA, rankA] = now(a);
  const [, stateB, rankB] = now(b);
  if (stateA !== stateB) return ORDER[stateA] - ORDER[stateB];
  if (rankA !== rankB) return (rankA ?? Infinity) - (rankB ?? Infinity);
  return a.place - b.place;
}

export function countStates(lanes) {
  const counts = {};
  for (const lane of lanes) {
    const state = now(lane)[1];
    counts[state] = (counts[state] ?? 0) + 1;
  }
  return counts;
}

export function inWords(counts) {
  return Object.keys(STATES)
    .filter((state) => counts[state])
    .map((state) => `${counts[state].toLocaleString("en")} ${COUNTED[state]?.[+(counts[state] > 1)] ?? STATES[state]}`)
    .join(", ");
}

function keyOf(lane, fold) {
  if (fold === "state") return now(lane)[1];
  if (fold.startsWith("label:")) return lane.labels[fold.slice(6)] ?? "";
  return "";
}

function nameOf(key, fold) {
  if (fold === "state") return STATES[key];
  if (fold.startsWith("label:")) return key ? `${fold.slice(6)} ${key}` : `no ${fold.slice(6)}`;
  return "";
}
