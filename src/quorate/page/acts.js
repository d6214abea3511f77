// What an operator may do: a button each, and a dialog that says what will happen.

import { act } from "./feed.js";

const REASON = { name: "reason", label: "Reason, told to everyone", kind: "text" };

const ACTS = {
  hold: {
    title: "Hold", fields: [REASON],
    text: "No round completes until you release the run; the present world goes on.",
  },
  release: { title: "Release", fields: [], text: "Rounds complete again." },
  scale: {
    title: "Scale",
    fields: [{ name: "nodes", label: "Nodes a round should have; empty for the greatest number", kind: "number" }],
    text: "The world grows or shrinks to this size; surplus nodes become spares.",
  },
  close: {
    title: "Close", fields: [REASON],
    text: "Ends the run for good: every agent stops its workers and exits, nobody can join again.",
  },
  drain: {
    title: "Drain", fields: [REASON],
    text: "The node leaves at the next regroup, and its agent exits with 0. Nothing is interrupted.",
  },
  evict: {
    title: "Evict", fields: [REASON, { name: "for_s", label: "Seconds to keep it out; empty for good", kind: "number" }],
    text: "The node is out at once, the others regroup, and it cannot come back meanwhile.",
  },
};

const by = (id) => document.getElementById(id);

/** Opens the dialog of one act; what is given is sent with it. */
function ask(name, given) {
  const { title, text, fields } = ACTS[name];
  by("dialog-title").textContent = given.node ? `${title} ${given.node}` : `${title} ${given.run}`;
  by("dialog-text").textContent = text;
  by("dialog-do").textContent = title;
  by("dialog-error").textContent = "";
  by("dialog-fields").replaceChildren(...fields.map(newField));
  by("dialog-form").onsubmit = async (event) => {
    event.preventDefault();
    await send(name, given, fields);
  };
  by("dialog-cancel").onclick = () => by("dialog").close();
  by("dialog").showModal();
}

async function send(name, given, fields) {
  const content = { ...given, action: name };
  for (const field of fields) {
    const value = by(`field-${field.name}`).value.trim();
    if (value !== "") content[field.name] = field.kind === "number" ? Number(value) : value;
  }
  try {
    await act(content);
    by("dialog").close();
  } catch (error) {
    by("dialog-error").textContent = error.message || "The token does not allow this.";
  }
}

function newField(field) {
  const label = document.createElement("label");
  const input = document.createElement("input");
  input.id = `field-${field.name}`;
  input.type = field.kind;
  if (field.kind === "number") input.min = 0;
  label.append(field.label, input);
  return label;
}

function button(name, given) {
  const element = document.createElement("button");
  element.type = "button";
  element.textContent = ACTS[name].title;
  element.dataset.act = name;
  element.onclick = () => ask(name, given());
  return element;
}

/** The buttons for a run, which is asked for when one is pressed. */
export function runButtons(model) {
  return ["hold", "release", "scale", "close"].map((name) => button(name, () => ({ run: model().run })));
}

/** The buttons for a node. */
export function nodeButtons(run, node) {
  return ["drain", "evict"].map((name) => button(name, () => ({ run, node })));
}
