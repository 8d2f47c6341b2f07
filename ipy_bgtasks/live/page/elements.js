// What the widgets' scripts share. They are joined to one module (`live.page.script`): an anywidget is
// one file, and no build is wanted. Texts go in as text, never as markup.

const ENDED = new Set(["finished", "failed", "cancelled"]);

// What names a job: its number, or text for a kept job ("k3"), which comes before all numbers.
const jobId = (text) => (/^\d+$/.test(text) ? Number(text) : text);
const order = (n) => (typeof n === "string" ? Number(n.slice(1)) - 1e9 : n);

function elapsed(seconds, whole) {
  if (seconds < 9.95) return whole ? `${Math.max(seconds, 0)}s` : `${Math.max(seconds, 0).toFixed(1)}s`;
  const s = whole ? seconds : Math.round(seconds);
  const two = (n) => String(n).padStart(2, "0");
  if (s < 60) return `${s}s`;
  if (s < 3600) return `${Math.floor(s / 60)}m${two(s % 60)}s`;
  return `${Math.floor(s / 3600)}h${two(Math.floor((s % 3600) / 60))}m`;
}

function clock(seconds) {
  return new Date(seconds * 1000).toLocaleTimeString([], { hourCycle: "h23" });
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

// A state with its dot, as the cards show it.
function stateOf(word, text = word) {
  return make("span", {}, make("span", { class: `dot ${word}` }, "●"), ` ${text}`);
}

// How far something is, in words and as a bar, as the cards show it.
function progressOf(fraction) {
  const percent = Math.floor(fraction * 100 + 1e-9);
  const fill = make("span");
  fill.style.width = `${percent}%`;
  return [make("span", {}, `${percent}%`), make("span", { class: "bar" }, fill)];
}

// Add pieces of a log, or replace what is shown by them; whoever reads its end stays there.
function addToLog(pre, { replace, segments }, limit) {
  const atEnd = replace || pre.scrollHeight - pre.scrollTop - pre.clientHeight < 30;
  if (replace) pre.replaceChildren();
  for (const [stream, text] of segments)
    pre.append(make("span", { class: stream === "stderr" ? "stderr" : "" }, text));
  while (pre.childNodes.length > 1 && pre.textContent.length > limit) pre.firstChild.remove();
  if (!pre.childNodes.length) pre.append(make("i", {}, "no output yet"));
  else if (!replace) pre.querySelector("i")?.remove();
  if (atEnd) pre.scrollTop = pre.scrollHeight;
}
