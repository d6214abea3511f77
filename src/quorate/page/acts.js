// What an operator may do: a button each, and a dialog that says what will happen.

import { act } from "./feed.js";

const REASON = { name: "reason", label: "Reason, told to everyone", kind: "text" };

// What a new round is to a job.
const RESTART = "all workers are stopped and started again";

const ACTS = {
  hold: {
    title: "Hold", fields: [REASON],
    text: "No round completes until you release the run. The present world goes on; should it lose a node, the others "
      + "stop their workers and wait.",
  },
  release: {
    title: "Release", fields: [],
    text: `Rounds complete again. If nodes wait to be let in, ${RESTART}.`,
  },
  scale: {
    title: "Scale",
    fields: [{ name: "nodes", label: "Nodes a round should have; empty for the greatest number", kind: "number" }],
    text: `The world grows or shrinks to this size; surplus nodes become spares. If it changes, ${RESTART}.`,
  },
  close: {
    title: "Close", fields: [REASON],
    text: "Nobody can join the run any more. Workers that run are let finish.",
  },
  drain: {
    title: "Drain", fields: [REASON],
    text: "The node leaves at the next regroup, and its agent exits with 0. This alone brings no regroup about; in each "
      + `that comes, ${RESTART}. A node that only waits leaves at once.`,
  },
  evict: {
    title: "Evict", fields: [REASON, { name: "for_s", label: "Seconds to keep it out; empty for good", kind: "number" }],
    text: `The node is out at once, and cannot come back meanwhile. The others regroup: ${RESTART}.`,
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
