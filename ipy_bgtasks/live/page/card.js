// What the card of one job and the card of several have in common: it looks like the plain card
// that it replaces, has buttons and a part that opens, and turns back into the plain one at the end.

class Card {
  constructor(model, what, word, part) {
    this.model = model;
    this.what = what;
    this.client = `${Date.now()}-${Math.random()}`;
    this.isOpen = false;
    this.cancel = make("button", { type: "button" });
    this.show = make("button", { type: "button" }, word);
    this.said = make("span", { class: "quiet", role: "status" });
    this.part = part;
    this.line = make("div", { class: "line" }, this.cancel, this.show, this.said);
    this.root = make("div", { class: "bgc" }, this.line, part);
    part.hidden = true;
    this.show.onclick = () => this.open(!this.isOpen);
    part.onkeydown = (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      this.open(false);
      this.show.focus();
    };
  }

  open(wanted) {
    this.isOpen = wanted;
    this.part.hidden = !wanted;
    this.show.setAttribute("aria-pressed", String(wanted));
    this.model.send({ kind: this.what, client: this.client, open: wanted });
  }

  close() {
    if (this.isOpen) this.model.send({ kind: this.what, client: this.client, open: false });
  }

  // The facts in front of the buttons, which stay where they are in the page and keep the focus.
  showFacts(parts, { fraction, facts, ended }) {
    if (fraction !== null) parts.push(...progressOf(fraction));
    for (const fact of facts) if (fact) parts.push(make("span", { class: "quiet" }, fact));
    while (this.line.firstChild !== this.cancel) this.line.firstChild.remove();
    this.cancel.before(...parts);
    this.cancel.hidden = ended;
    this.show.setAttribute("aria-pressed", String(this.isOpen));
    if (ended) this.said.textContent = "";
  }

  hear({ kind, text }) {
    if (kind === "said") this.said.textContent = text;
  }
}

// The widget: its views show one job or several, and change over when there are more.
const CARD_WIDGET = {
  initialize({ model }) {
    model.send({ kind: "hello" });
  },
  render({ model, el }) {
    let card;
    const draw = () => {
      const Kind = model.get("many").title ? ManyCard : JobCard;
      if (!(card instanceof Kind)) {
        card?.close();
        card = new Kind(model);
        el.replaceChildren(card.root);
      }
      card.draw();
    };
    const hear = (message) => card.hear(message);
    draw();
    for (const fact of ["card", "many", "rows"]) model.on(`change:${fact}`, draw);
    model.on("msg:custom", hear);
    return () => {
      card.close();
      for (const fact of ["card", "many", "rows"]) model.off(`change:${fact}`, draw);
      model.off("msg:custom", hear);
    };
  },
};
