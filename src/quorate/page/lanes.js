// The timeline: an axis, a band for each round, a row for each lane or group. Only the rows that are
// in view exist; they are positioned by hand, and share one drawing behind them.

import { bar, clockText, durationText, end, heap, lane as drawLane, Scale, sign, svg } from "./drawing.js";
import { compareLanes, countStates, draining, inWords, isConnected, isGone, now, STATES } from "./model.js";

const ROW = 24;
const GROUP = 52;
const MARGIN = 14;
// Rows above and below those in view, so that a quick scroll finds them there.
const SPARE_ROWS = 4;

export class Lanes {
  constructor(elements, selected) {
    this.box = elements.lanes;
    this.sheet = elements.sheet;
    this.chart = elements.chart;
    this.axis = elements.axis;
    this.selectedChanged = selected;
    this.unfolded = new Set();
    this.rows = [];
    this.drawn = new Map();
    this.active = "";
    this.fold = "";
    this.span = 0;
    this.model = null;
    this.box.addEventListener("scroll", () => this.later());
    this.box.addEventListener("keydown", (event) => this.key(event));
    this.sheet.addEventListener("click", (event) => this.click(event));
    new ResizeObserver(() => this.later()).observe(this.box);
  }

  show(model, fold, span) {
    if (this.model?.timeline !== model.timeline) this.forget();
    else if (this.fold !== fold) this.foldAll();
    Object.assign(this, { model, fold, span });
    model.reshaped = true;
  }

  /** Forgets the rows: each timeline has a first lane. */
  forget() {
    for (const element of this.drawn.values()) element.remove();
    this.drawn.clear();
    this.active = "";
    this.foldAll();
  }

  foldAll() {
    this.unfolded.clear();
    this.box.scrollTop = 0;
  }

  later() {
    this.planned ??= requestAnimationFrame(() => this.draw());
  }

  /** Draws everything that is in view, at the coordinator's time. */
  draw(at = this.at) {
    cancelAnimationFrame(this.planned);
    this.planned = undefined;
    this.at = at;
    if (!this.model) return;
    if (this.model.reshaped) this.reshape();
    const height = this.box.clientHeight;
    const width = this.box.clientWidth;
    const scale = this.scale(width);
    const visible = this.visible(this.box.scrollTop, height);
    this.drawChart(visible, scale, width, height);
    this.drawRows(visible);
    this.drawAxis(scale);
    this.selectedChanged(this.current());
  }

  scale(width) {
    const label = parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--label"));
    const first = Math.min(this.model.begin(), this.at - 20);
    const begin = this.span ? this.at - this.span : first;
    return new Scale(begin, this.at, label, width - MARGIN);
  }

  /** Lists the rows anew: groups, and the lanes of those that are unfolded. */
  reshape() {
    this.model.reshaped = false;
    this.rows = [];
    let top = 0;
    const add = (row, height) => {
      this.rows.push(Object.assign(row, { top, height }));
      top += height;
    };
    const groups = this.model.groups(this.fold);
    for (const [position, group] of groups.entries()) {
      const single = this.fold === "";
      const open = single || this.unfolded.has(group.key);
      if (!single) add({ id: `group-${position}`, group, open, position, of: groups.length }, GROUP);
      if (!open) continue;
      group.lanes.sort(compareLanes);
      for (const [index, lane] of group.lanes.entries()) {
        add({ id: `lane-${lane.lane}`, lane, parent: single ? null : group.key, position: index, of: group.lanes.length }, ROW);
      }
    }
    this.sheet.style.height = `${top}px`;
    this.box.classList.toggle("few", this.fold === "" && top <= 268);
    this.box.setAttribute("aria-rowcount", this.rows.length);
    this.index = new Map(this.rows.map((row, index) => [row.id, index]));
  }

  visible(from, height) {
    let low = 0;
    let high = this.rows.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.rows[middle].top + this.rows[middle].height < from) low = middle + 1;
      else high = middle;
    }
    let last = low;
    while (last < this.rows.length && this.rows[last].top < from + height) last += 1;
    const rows = this.rows.slice(Math.max(0, low - SPARE_ROWS), last + SPARE_ROWS);
    const active = this.rows[this.index.get(this.active)];
    // What has the focus exists, in view or not.
    if (active && !rows.includes(active)) rows.push(active);
    return rows;
  }

  drawChart(rows, scale, width, height) {
    const offset = this.box.scrollTop;
    const shapes = [];
    for (const round of this.model.rounds) {
      const until = round.ended ?? scale.end;
      if (round.completed === null || until < scale.begin) continue;
      const x = scale.x(round.completed);
      shapes.push(svg("rect", { class: round.round % 2 ? "band odd" : "band", x, y: 0, width: Math.max(scale.x(until) - x, 1), height }));
      shapes.push(svg("path", { class: "edge", d: `M${x},0V${height}` }));
    }
    for (const row of rows) {
      const top = row.top - offset;
      if (row.lane) shapes.push(...drawLane(row.lane, scale, top + ROW / 2));
      else {
        shapes.push(heap(row.group.lanes, scale, top + 7, GROUP - 14));
        shapes.push(svg("path", { class: "base", d: `M${scale.left},${top + GROUP - 6.5}H${scale.right}` }));
      }
    }
    shapes.push(svg("path", { class: "now", d: `M${scale.right},0V${height}` }));
    this.chart.setAttribute("width", width);
    this.chart.setAttribute("height", height);
    this.chart.replaceChildren(...shapes);
  }

  drawAxis(scale) {
    const shapes = [];
    for (const [x, text] of scale.ticks()) {
      shapes.push(svg("path", { class: "tick", d: `M${x},30V38` }));
      shapes.push(svg("text", { x, y: 26, "text-anchor": "middle" }, text));
    }
    let free = scale.left;
    for (const round of this.model.rounds) {
      if (round.completed === null) continue;
      const x = scale.x(round.completed);
      const text = `round ${round.round}`;
      const shown = (round.ended ?? scale.end) >= scale.begin && x >= free;
      if (!shown || x > scale.right - 30) continue;
      shapes.push(svg("text", { class: "round", x: x + 2, y: 11 }, text));
      free = x + 8 * text.length;
    }
    this.axis.replaceChildren(...shapes);
  }

  drawRows(rows) {
    const kept = new Map();
    for (const row of rows) {
      const element = this.drawn.get(row.id) ?? newRow(row);
      this.drawn.delete(row.id);
      kept.set(row.id, element);
      this.fill(element, row);
    }
    for (const element of this.drawn.values()) element.remove();
    this.drawn = kept;
    for (const element of kept.values()) if (!element.parentNode) this.sheet.append(element);
    if (kept.has(this.active)) this.box.setAttribute("aria-activedescendant", this.active);
    else this.box.removeAttribute("aria-activedescendant");
  }

  fill(element, row) {
    element.style.top = `${row.top}px`;
    set(element, "aria-rowindex", this.index.get(row.id) + 1);
    set(element, "aria-posinset", row.position + 1);
    set(element, "aria-setsize", row.of);
    set(element, "aria-selected", row.id === this.active);
    if (row.lane) fillLane(element, row, this.at);
    else fillGroup(element, row);
  }

  current() {
    return this.rows[this.index?.get(this.active)] ?? null;
  }

  click(event) {
    const element = event.target.closest(".lane");
    if (!element) return;
    const row = this.rows[this.index.get(element.id)];
    const again = this.active === row.id;
    this.active = row.id;
    if (row.group && (again || event.target.closest(".who"))) this.toggle(row);
    this.draw();
  }

  toggle(row, open = !row.open) {
    if (open) this.unfolded.add(row.group.key);
    else this.unfolded.delete(row.group.key);
    this.model.reshaped = true;
  }

  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || !this.rows.length) return;
    const at = this.index.get(this.active) ?? -1;
    const page = Math.max(1, Math.floor(this.box.clientHeight / ROW) - 1);
    const moves = {
      ArrowDown: at + 1, ArrowUp: at < 0 ? 0 : at - 1, Home: 0, End: this.rows.length - 1,
      PageDown: at + page, PageUp: at - page,
    };
    if (event.key in moves) this.move(moves[event.key]);
    else if (!this.unfold(event.key, this.current())) return;
    event.preventDefault();
    this.draw();
  }

  move(index) {
    const row = this.rows[Math.max(0, Math.min(this.rows.length - 1, index))];
    this.active = row.id;
    this.reveal(row);
  }

  unfold(key, row) {
    if (row === null) return false;
    const toggles = key === "Enter" || key === " ";
    if (row.group && (toggles || (key === "ArrowRight" && !row.open) || (key === "ArrowLeft" && row.open))) {
      this.toggle(row);
      return true;
    }
    if (key === "ArrowLeft" && row.parent) {
      const group = this.rows.find((other) => other.group?.key === row.parent);
      this.active = group.id;
      this.reveal(group);
      return true;
    }
    return key === "ArrowRight" || key === "ArrowLeft" || toggles;
  }

  reveal(row) {
    const { scrollTop, clientHeight } = this.box;
    if (row.top < scrollTop) this.box.scrollTop = row.top;
    else if (row.top + row.height > scrollTop + clientHeight) {
      this.box.scrollTop = row.top + row.height - clientHeight;
    }
  }
}

function newRow(row) {
  const element = document.createElement("div");
  element.id = row.id;
  element.className = row.group ? "lane group" : "lane";
  element.setAttribute("role", "row");
  element.setAttribute("aria-level", row.group || row.parent === null ? 1 : 2);
  const who = document.createElement("div");
  who.className = "who";
  who.setAttribute("role", "rowheader");
  const said = document.createElement("div");
  said.className = "said";
  said.setAttribute("role", "gridcell");
  element.append(who, said);
  return element;
}

function fillLane(element, row, at) {
  const [since, state, rank] = now(row.lane);
  const shown = `${row.lane.node} ${state} ${rank} ${row.lane.marks}`;
  element.classList.toggle("gone", isGone(row.lane));
  if (element.dataset.shown !== shown) {
    element.dataset.shown = shown;
    const name = document.createElement("span");
    name.className = "name";
    name.textContent = nodeName(row.lane);
    name.title = row.lane.node;
    const life = document.createElement("span");
    life.className = "life";
    life.textContent = row.lane.node.slice(row.lane.addr.length + 1);
    element.firstChild.replaceChildren(sign(state), name, life);
    if (!isConnected(row.lane)) element.firstChild.append(cutSign());
    if (draining(row.lane)) element.firstChild.append(drainSign());
  }
  element.lastChild.textContent = `${standing(row.lane)} for ${durationText(at - since)}`;
}

function fillGroup(element, row) {
  const summary = inWords(countStates(row.group.lanes));
  const shown = `${row.open} ${summary} ${row.group.name}`;
  set(element, "aria-expanded", row.open);
  if (element.dataset.shown === shown) return;
  element.dataset.shown = shown;
  const texts = document.createElement("div");
  texts.className = "texts";
  const name = document.createElement("span");
  name.className = "name";
  name.textContent = row.group.name;
  const sum = document.createElement("div");
  sum.className = "sum";
  sum.textContent = sum.title = summary;
  texts.append(name, sum);
  const d = row.open ? "M1,4L5.5,8.5L10,4" : "M3.5,1.5L8,6L3.5,10.5";
  element.firstChild.replaceChildren(svg("svg", { viewBox: "0 0 11 11", class: "fold" }, svg("path", { d })), texts);
}

function set(element, name, value) {
  if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

function cutSign() {
  const box = svg("svg", { viewBox: "-6 -6 12 12", role: "img", "aria-label": "not connected" });
  box.append(svg("path", { class: "s-cut", d: "M-5,0H-2M2,0H5M-1,-4L1,4" }));
  return box;
}

function drainSign() {
  const box = svg("svg", { viewBox: "-6 -6 12 12", role: "img", "aria-label": "being drained" });
  box.append(svg("path", { class: "s-drain", d: "M-5,0H4M0.5,-3.5L4,0L0.5,3.5" }));
  return box;
}

export function nodeName(lane) {
  return lane.node_id || lane.addr;
}

/** Where a node stands, in words. */
export function standing(lane) {
  const [, state, rank] = now(lane);
  const place = rank === null ? STATES[state] : `${STATES[state]}, rank ${rank}`;
  return isConnected(lane) ? place : `${place}, not connected`;
}

export function describe(row, at) {
  if (row.group) return [row.group.name, inWords(countStates(row.group.lanes))];
  const [since, , , why] = now(row.lane);
  const labels = Object.entries(row.lane.labels).map(([key, value]) => `${key}:${value}`);
  const parts = [
    standing(row.lane),
    `since ${clockText(since)} (${durationText(at - since)})`,
    ...[why, draining(row.lane)].filter(Boolean),
    row.lane.node,
    ...labels,
  ];
  return [nodeName(row.lane), parts.join(", ")];
}

/** What each shape stands for. */
export function legend() {
  return ["participant", "joined", "returning", "waiting", "spare", "straggler", "lost", "gone"].map((state) => {
    const box = svg("svg", { viewBox: "0 0 22 14", "aria-hidden": "true" });
    if (state === "lost" || state === "gone") box.append(end(state, 11, 7));
    else box.append(...bar(state, 0, 22, 7, null).slice(0, 1));
    const item = document.createElement("li");
    item.append(box, STATES[state]);
    return item;
  });
}
