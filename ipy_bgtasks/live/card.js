// The card of a job that goes on for a while, with a button that stops it: an anywidget.
// It looks like the plain card that it replaces, and turns back into it when the job has ended.

const COLOURS = {
  running: "var(--jp-brand-color1, #2f80ed)",
  cancelling: "var(--jp-warn-color1, #d98200)",
  finished: "var(--jp-success-color1, #2e9e4f)",
  failed: "var(--jp-error-color1, #d9413a)",
};

function make(tag, name, text = "") {
  const el = document.createElement(tag);
  el.className = name;
  el.textContent = text;
  return el;
}

function draw(root, button, said, card) {
  const dot = make("span", "", "●");
  dot.style.color = COLOURS[card.state] ?? "#888";
  const state = make("span", "");
  state.append(dot, ` ${card.state}`);
  const name = make("code", "", card.name);
  name.dir = "auto";
  const parts = [make("span", "quiet", `[${card.n}]`), state, name];
  if (card.fraction !== null) {
    const percent = Math.floor(card.fraction * 100 + 1e-9);
    const bar = make("span", "bar");
    const fill = make("span", "");
    fill.style.width = `${percent}%`;
    bar.append(fill);
    parts.push(make("span", "", `${percent}%`), bar);
  }
  for (const fact of card.facts) if (fact) parts.push(make("span", "quiet", fact));
  root.title = card.code;
  button.hidden = card.ended;
  const word = card.state === "cancelling" ? "Force" : "Cancel";
  button.textContent = word;
  button.setAttribute("aria-label", `${word} job ${card.n}, ${card.name}`);
  // The button stays where it is in the page, so that it keeps the focus.
  while (root.firstChild !== button) root.firstChild.remove();
  button.before(...parts);
  if (card.ended) said.textContent = "";
}

export default {
  initialize({ model }) {
    model.send({ kind: "hello" });
  },
  render({ model, el }) {
    const root = make("div", "bgc");
    const button = make("button", "");
    const said = make("span", "quiet");
    button.type = "button";
    said.setAttribute("role", "status");
    root.append(button, said);
    el.append(root);
    button.onclick = () => {
      model.send({ kind: "cancel", force: model.get("card").state === "cancelling" });
    };
    const redraw = () => draw(root, button, said, model.get("card"));
    const hear = ({ kind, text }) => {
      if (kind === "said") said.textContent = text;
    };
    model.on("change:card", redraw);
    model.on("msg:custom", hear);
    redraw();
    return () => {
      model.off("change:card", redraw);
      model.off("msg:custom", hear);
    };
  },
};
