// The card of a job that goes on for a while, with a button that stops it and one that shows its
// whole log: an anywidget. It looks like the plain card that it replaces, and turns back into it
// when the job has ended.

const LOG_LIMIT = 2_000_000; // characters in the page; the kernel keeps fewer

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

class Card {
  constructor(model, el) {
    this.model = model;
    this.client = `${Date.now()}-${Math.random()}`;
    this.isOpen = false;
    this.root = make("div", "bgc");
    this.line = make("div", "line");
    this.cancel = make("button", "");
    this.show = make("button", "", "Log");
    this.said = make("span", "quiet");
    this.log = make("pre", "log");
    this.cancel.type = this.show.type = "button";
    this.said.setAttribute("role", "status");
    this.log.tabIndex = 0;
    this.log.dir = "auto";
    this.log.hidden = true;
    this.log.setAttribute("role", "log");
    this.log.setAttribute("aria-live", "off");
    this.line.append(this.cancel, this.show, this.said);
    this.root.append(this.line, this.log);
    el.append(this.root);
    this.cancel.onclick = () => {
      model.send({ kind: "cancel", force: model.get("card").state === "cancelling" });
    };
    this.show.onclick = () => this.open(!this.isOpen);
    this.log.onkeydown = (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      this.open(false);
      this.show.focus();
    };
    this.draw();
  }

  open(wanted) {
    this.isOpen = wanted;
    this.log.hidden = !wanted;
    this.log.replaceChildren();
    this.show.setAttribute("aria-pressed", String(wanted));
    this.model.send({ kind: "log", client: this.client, open: wanted });
  }

  close() {
    if (this.isOpen) this.model.send({ kind: "log", client: this.client, open: false });
  }

  draw() {
    const card = this.model.get("card");
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
    this.line.title = card.code;
    this.cancel.hidden = card.ended;
    const word = card.state === "cancelling" ? "Force" : "Cancel";
    this.cancel.textContent = word;
    this.cancel.setAttribute("aria-label", `${word} job ${card.n}, ${card.name}`);
    this.show.setAttribute("aria-label", `Log of job ${card.n}, ${card.name}`);
    this.show.setAttribute("aria-pressed", String(this.isOpen));
    // The buttons stay where they are in the page, so that they keep the focus.
    while (this.line.firstChild !== this.cancel) this.line.firstChild.remove();
    this.cancel.before(...parts);
    if (card.ended) this.said.textContent = "";
  }

  hear({ kind, text, replace, segments }) {
    if (kind === "said") this.said.textContent = text;
    if (kind !== "log" || !this.isOpen) return;
    const pre = this.log;
    const atEnd = replace || pre.scrollHeight - pre.scrollTop - pre.clientHeight < 30;
    if (replace) pre.replaceChildren();
    for (const [stream, part] of segments)
      pre.append(make("span", stream === "stderr" ? "stderr" : "", part));
    while (pre.childNodes.length > 1 && pre.textContent.length > LOG_LIMIT) pre.firstChild.remove();
    if (!pre.childNodes.length) pre.append(make("i", "", "no output yet"));
    else if (!replace) pre.querySelector("i")?.remove();
    if (atEnd) pre.scrollTop = pre.scrollHeight;
  }
}

export default {
  initialize({ model }) {
    model.send({ kind: "hello" });
  },
  render({ model, el }) {
    const card = new Card(model, el);
    const redraw = () => card.draw();
    const hear = (message) => card.hear(message);
    model.on("change:card", redraw);
    model.on("msg:custom", hear);
    return () => {
      card.close();
      model.off("change:card", redraw);
      model.off("msg:custom", hear);
    };
  },
};
