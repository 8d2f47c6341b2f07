// The card of the jobs of one cell, with a button that stops all and one that opens their list: an
// anywidget. It looks like the plain card that it replaces. All text came from jobs and goes in as
// text, never as markup.

class Many {
  constructor(model, el) {
    this.model = model;
    this.client = `${Date.now()}-${Math.random()}`;
    this.isOpen = false;
    this.root = make("div", { class: "bgc" });
    this.line = make("div", { class: "line" });
    this.cancel = make("button", {}, "Cancel all");
    this.show = make("button", {}, "List");
    this.said = make("span", { class: "quiet" });
    this.list = make("div", { class: "log" });
    this.cancel.type = this.show.type = "button";
    this.said.setAttribute("role", "status");
    this.list.tabIndex = 0;
    this.list.hidden = true;
    this.list.setAttribute("role", "list");
    this.list.setAttribute("aria-label", "Jobs of this cell");
    this.line.append(this.cancel, this.show, this.said);
    this.root.append(this.line, this.list);
    el.append(this.root);
    this.cancel.onclick = () => model.send({ kind: "cancel" });
    this.show.onclick = () => this.open(!this.isOpen);
    this.list.onkeydown = (event) => {
      if (event.key !== "Escape") return;
      event.stopPropagation();
      this.open(false);
      this.show.focus();
    };
    this.draw();
    this.drawList();
  }

  open(wanted) {
    this.isOpen = wanted;
    this.list.hidden = !wanted;
    this.show.setAttribute("aria-pressed", String(wanted));
    this.model.send({ kind: "list", client: this.client, open: wanted });
  }

  close() {
    if (this.isOpen) this.model.send({ kind: "list", client: this.client, open: false });
  }

  draw() {
    const many = this.model.get("many");
    const parts = [make("span", { class: "quiet" }, many.title)];
    for (const [word, count] of many.counts) parts.push(stateOf(word, `${count.toLocaleString("en")} ${word}`));
    if (many.fraction !== null) parts.push(...progressOf(many.fraction));
    for (const fact of many.facts) parts.push(make("span", { class: "quiet" }, fact));
    this.cancel.hidden = many.ended;
    this.cancel.setAttribute("aria-label", `Cancel all of ${many.title}`);
    this.show.setAttribute("aria-label", `List of ${many.title}`);
    this.show.setAttribute("aria-pressed", String(this.isOpen));
    // The buttons stay where they are in the page, so that they keep the focus.
    while (this.line.firstChild !== this.cancel) this.line.firstChild.remove();
    this.cancel.before(...parts);
    if (many.ended) this.said.textContent = "";
  }

  drawList() {
    const rows = this.model.get("rows").map(([number, word, name, elapsed, last]) => {
      const row = make("div");
      row.setAttribute("role", "listitem");
      const code = make("code", {}, name);
      code.dir = "auto";
      row.append(`[${number}] `, stateOf(word, word), " ", code, `  ${elapsed}  `);
      row.append(make("span", { class: "quiet" }, last));
      return row;
    });
    const most = 300;
    if (rows.length >= most) rows.push(make("i", {}, `the first ${most}: %jobs shows more`));
    this.list.replaceChildren(...rows);
  }

  hear({ kind, text }) {
    if (kind === "said") this.said.textContent = text;
  }
}

export default {
  initialize({ model }) {
    model.send({ kind: "hello" });
  },
  render({ model, el }) {
    const card = new Many(model, el);
    const redraw = () => card.draw();
    const relist = () => card.drawList();
    const hear = (message) => card.hear(message);
    model.on("change:many", redraw);
    model.on("change:rows", relist);
    model.on("msg:custom", hear);
    return () => {
      card.close();
      model.off("change:many", redraw);
      model.off("change:rows", relist);
      model.off("msg:custom", hear);
    };
  },
};
