// What the parts of the script share. Texts go in as text, never as markup.

const ENDED = new Set(["finished", "failed", "cancelled", "lost"]);
const KILLED = new Set(["process", "shell", "kept"]); // places that a second stop kills

function elapsed(seconds, whole) {
  if (seconds < 9.95) return whole ? `${Math.max(Math.floor(seconds), 0)}s` : `${Math.max(seconds, 0).toFixed(1)}s`;
  const s = whole ? Math.floor(seconds) : Math.round(seconds);
  const two = (n) => String(n).padStart(2, "0");
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m${two(s % 60)}s`;
  return `${Math.floor(s / 3600)}h${two(Math.floor((s % 3600) / 60))}m`;
}

function clock(seconds, fine) {
  const at = new Date(seconds * 1000);
  const text = at.toLocaleTimeString([], { hourCycle: "h23" });
  return fine ? `${text}.${String(at.getMilliseconds()).padStart(3, "0")}` : text;
}

function make(tag, attributes = {}, ...content) {
  const el = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) el.setAttribute(name, value);
  el.append(...content); // strings become text nodes
  return el;
}

function svg(tag, attributes = {}) {
  const el = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) el.setAttribute(name, value);
  return el;
}

function setText(el, text) {
  if (el.textContent !== text) el.textContent = text;
}

// A button. The notebook's own keys must not act on it: `d d` there would delete the cell.
function button(word, act, attributes = {}) {
  const el = make("button", { type: "button", "data-lm-suppress-shortcuts": "true", ...attributes }, word);
  el.onclick = act;
  return el;
}

const ICONS = {
  log: "M2 3h12v1.6H2zm0 3.8h12v1.6H2zm0 3.8h8v1.6H2z",
  stop: "M4 4h8v8H4z",
  kill: "M8 1 9.6 5.4 14 4l-2.4 4L14 12l-4.4-1.4L8 15l-1.6-4.4L2 12l2.4-4L2 4l4.4 1.4z",
  forget: "M4.1 3 8 6.9 11.9 3 13 4.1 9.1 8l3.9 3.9-1.1 1.1L8 9.1 4.1 13 3 11.9 6.9 8 3 4.1z",
  bell: "M8 1a1 1 0 0 0-1 1v.6A4.5 4.5 0 0 0 3.5 7v3L2 12v1h12v-1l-1.5-2V7A4.5 4.5 0 0 0 9 2.6V2a1 1 0 0 0-1-1zM6.3 14a1.8 1.8 0 0 0 3.4 0z",
};

function icon(name) {
  const el = svg("svg", { viewBox: "0 0 16 16", width: "12", height: "12", fill: "currentColor", "aria-hidden": "true" });
  el.append(svg("path", { d: ICONS[name] }));
  return el;
}

function relabel(el, label) {
  if (el.getAttribute("aria-label") === label) return;
  el.setAttribute("aria-label", label);
  el.title = label;
}

// A state with its sign: shape as well as colour tell it.
class State {
  constructor(...more) {
    this.glyph = make("span", { class: "glyph", "aria-hidden": "true" });
    this.word = make("span");
    this.el = make("span", { class: "state" }, this.glyph, " ", this.word, ...more);
  }

  show(state) {
    this.el.className = `state ${state}`;
    setText(this.glyph, GLYPHS[state] ?? "○");
    setText(this.word, state);
    this.el.title = state; // where there is no room for the word
  }
}

// How far something is: a bar, and one phrase.
class Bar {
  constructor(who) {
    this.fill = make("span");
    this.track = make("span", { class: "bar", role: "progressbar", "aria-valuemax": "100", "aria-label": `Progress of ${who}` }, this.fill);
    this.phrase = make("span", { class: "phrase" });
    this.el = make("span", { class: "ahead" }, this.track, this.phrase);
  }

  show(fraction, ...words) {
    this.el.hidden = fraction === null;
    if (fraction === null) return;
    const percent = Math.floor(fraction * 100 + 1e-9);
    this.track.setAttribute("aria-valuenow", String(percent));
    this.fill.style.width = `${percent}%`;
    setText(this.phrase, [`${percent}%`, ...words.filter(Boolean)].join(" · "));
  }
}

// The time of a job: ticks while it runs and somebody answers.
function timeOf(row, link) {
  if (row.started === null) return "";
  if (row.ended !== null) return elapsed(row.ended - row.started, false);
  return elapsed((link.alive ? link.now() : link.goneAt) - row.started, true);
}
