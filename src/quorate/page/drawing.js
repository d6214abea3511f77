// Shapes. Each state has one of its own, so that nothing is told by colour alone.

const SVG = "http://www.w3.org/2000/svg";
const BAR = 14;
// Text is not cut off: it is drawn where it fits.
const LETTERS = { waiting: "W", spare: "S", straggler: "L", joined: "J" };

export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

/** A stretch of time on a width in pixels. */
export class Scale {
  constructor(begin, end, left, right) {
    this.begin = begin;
    this.end = Math.max(end, begin + 1);
    this.left = left;
    this.right = right;
    this.perSecond = (right - left) / (this.end - this.begin);
  }

  x(at) {
    const x = this.left + (at - this.begin) * this.perSecond;
    return Math.round(10 * Math.max(this.left, Math.min(this.right, x))) / 10;
  }

  /** Round moments for ticks: [x, text], as many as there is room for. */
  ticks() {
    const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21600, 43200, 86400];
    const room = Math.max(2, (this.right - this.left) / 110);
    const step = steps.find((s) => (this.end - this.begin) / s <= room) ?? 7 * 86400;
    const zone = new Date(this.end * 1000).getTimezoneOffset() * 60;
    const found = [];
    for (let at = Math.ceil((this.begin - zone) / step) * step + zone; at <= this.end; at += step) {
      found.push([this.x(at), clockText(at, step < 60)]);
    }
    return found;
  }
}

export function clockText(at, withSeconds = true) {
  return new Date(at * 1000).toTimeString().slice(0, withSeconds ? 8 : 5);
}

export function durationText(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** The bar of one stretch of a node's life; y is its middle. */
export function bar(state, x0, x1, y, rank) {
  const width = Math.max(x1 - x0 - 1, 1.5);
  if (state === "attached") return [svg("rect", { class: "s-attached", x: x0, y: y - 1, width, height: 2 })];
  const height = state === "spare" ? 8 : BAR;
  const inset = state === "participant" ? 0 : 0.5;
  const shapes = [
    svg("rect", {
      class: `s-${state}`, x: x0 + inset, y: y - height / 2 + inset, rx: 3,
      width: Math.max(width - 2 * inset, 1), height: height - 2 * inset,
    }),
  ];
  const text = rank === null ? LETTERS[state] : String(rank);
  if (text && width > 10 + 7 * text.length) {
    const kind = rank === null ? "letter" : "rank";
    shapes.push(svg("text", { class: kind, x: x0 + 6, y: y + 4 }, text));
  }
  return shapes;
}

/** The mark at the end of a life: a cross for a loss, a stroke for one that left. */
export function end(state, x, y) {
  const d = state === "lost" ? `M${x - 4},${y - 4}l8,8m0,-8l-8,8` : `M${x},${y - 5}v10`;
  const mark = svg("path", { class: `s-${state}`, d });
  return state === "lost" ? svg("g", {}, svg("path", { class: "halo", d }), mark) : mark;
}

/** A lane: each stretch as a bar, and what ended it. */
export function lane(lane, scale, y) {
  const shapes = [];
  const { steps } = lane;
  for (const [index, [at, state, rank]] of steps.entries()) {
    if (state === "lost" || state === "gone") {
      if (at >= scale.begin) shapes.push(end(state, scale.x(at), y));
      continue;
    }
    const until = index + 1 < steps.length ? steps[index + 1][0] : scale.end;
    if (until >= scale.begin) shapes.push(...bar(state, scale.x(at), scale.x(until), y, rank));
  }
  return shapes;
}

// From the ground up.
const STACKED = ["participant", "joined", "returning", "straggler", "waiting", "spare", "attached"];

/** A group of lanes: how many stood where, as areas on top of each other; losses as crosses. */
export function heap(lanes, scale, top, height) {
  const columns = Math.max(1, Math.ceil((scale.right - scale.left) / 2));
  const changes = Object.fromEntries(STACKED.map((state) => [state, new Int32Array(columns + 1)]));
  const losses = new Map();
  const column = (at) => Math.min(columns, Math.max(0, Math.round((scale.x(at) - scale.left) / 2)));
  for (const { steps } of lanes) {
    for (let index = 0; index < steps.length; index++) {
      const [at, state] = steps[index];
      if (state === "lost" && at >= scale.begin) {
        losses.set(column(at), (losses.get(column(at)) ?? 0) + 1);
      }
      if (!(state in changes)) continue;
      const until = index + 1 < steps.length ? steps[index + 1][0] : scale.end;
      if (until < scale.begin) continue;
      const from = column(at);
      changes[state][from] += 1;
      changes[state][Math.max(column(until), Math.min(from + 1, columns))] -= 1;
    }
  }
  const shapes = areas(changes, columns, scale.left, top, height);
  return svg("g", { class: "heap" }, ...shapes, ...crosses(losses, scale.left, top));
}

function areas(changes, columns, left, top, height) {
  const sums = STACKED.map((state) => accumulated(changes[state], columns));
  let most = 1;
  for (let c = 0; c < columns; c++) most = Math.max(most, sums.reduce((sum, s) => sum + s[c], 0));
  const ground = new Float64Array(columns);
  const shapes = [];
  for (const [index, state] of STACKED.entries()) {
    if (!sums[index].some((count) => count > 0)) continue;
    const lower = ground.slice();
    for (let c = 0; c < columns; c++) ground[c] += sums[index][c];
    const y = (count) => Math.round(10 * (top + height - (count / most) * height)) / 10;
    shapes.push(svg("path", { class: `s-${state}`, d: outline(lower, ground, left, y) }));
  }
  return shapes;
}

function accumulated(changes, columns) {
  const sums = new Int32Array(columns);
  for (let c = 0, sum = 0; c < columns; c++) sums[c] = sum += changes[c];
  return sums;
}

/** The outline of each stretch in which an area has a height. */
function outline(lower, upper, left, y) {
  let path = "";
  let c = 0;
  while (c < upper.length) {
    if (upper[c] === lower[c]) {
      c += 1;
      continue;
    }
    const from = c;
    let above = `M${left + 2 * c},${y(upper[c])}`;
    for (; c < upper.length && upper[c] !== lower[c]; c++) {
      if (c > from && upper[c] !== upper[c - 1]) above += `V${y(upper[c])}`;
      above += `H${left + 2 * c + 2}`;
    }
    let below = "";
    for (let back = c - 1; back >= from; back--) {
      if (back === c - 1 || lower[back] !== lower[back + 1]) below += `V${y(lower[back])}`;
      below += `H${left + 2 * back}`;
    }
    path += `${above}${below}Z`;
  }
  return path;
}

function crosses(losses, left, top) {
  const shapes = [];
  for (const [column, count] of losses) {
    const x = left + 2 * column;
    shapes.push(end("lost", x, top + 8));
    if (count > 1) shapes.push(svg("text", { class: "letter", x: x + 7, y: top + 12 }, String(count)));
  }
  return shapes;
}

/** A small sign for a state or a kind of event, 12 by 12, around its middle. */
export function sign(kind) {
  const box = svg("svg", { viewBox: "-6 -6 12 12", "aria-hidden": "true" });
  const known = {
    participant: () => svg("rect", { class: "s-participant", x: -5, y: -5, width: 10, height: 10, rx: 2 }),
    joined: () => svg("rect", { class: "s-joined", x: -4.5, y: -4.5, width: 9, height: 9, rx: 2 }),
    returning: () => svg("rect", { class: "s-returning", x: -4.5, y: -4.5, width: 9, height: 9, rx: 2 }),
    waiting: () => svg("path", { class: "s-waiting", d: "M0,-5L5,4H-5Z" }),
    spare: () => svg("circle", { class: "s-spare", r: 4.5, "stroke-width": 1.6 }),
    straggler: () => svg("path", { class: "s-straggler", d: "M0,-5L5,0L0,5L-5,0Z" }),
    attached: () => svg("rect", { class: "s-attached", x: -5, y: -1, width: 10, height: 2 }),
    lost: () => end("lost", 0, 0),
    gone: () => end("gone", 0, 0),
    closed: () => svg("rect", { class: "s-gone", x: -4, y: -4, width: 8, height: 8 }),
  };
  const alike = {
    complete: "participant", completed: "participant", regrouping: "returning", joining: "joined",
    returned: "joined", regroup: "returning", evicted: "lost", left: "gone", drained: "gone", promoted: "spare",
  };
  box.append((known[alike[kind] ?? kind] ?? known.attached)());
  return box;
}
