// The card of the jobs of one cell, with a button that stops all and one that opens their list.

const MOST = 300; // rows of the list; the kernel sends no more

class ManyCard extends Card {
  constructor(model) {
    super(model, "list", "List", make("div", { class: "log", tabindex: "0", role: "list", "aria-label": "Jobs of this cell" }));
    this.cancel.textContent = "Cancel all";
    this.cancel.onclick = () => model.send({ kind: "cancel" });
  }

  draw() {
    const many = this.model.get("many");
    const states = many.counts.map(([word, count]) => stateOf(word, `${count.toLocaleString("en")} ${word}`));
    this.showFacts([make("span", { class: "quiet" }, many.title), ...states], many);
    this.cancel.setAttribute("aria-label", `Cancel all of ${many.title}`);
    this.show.setAttribute("aria-label", `List of ${many.title}`);
    const rows = this.model.get("rows").map(([number, word, name, elapsed, last]) => {
      const code = make("code", { dir: "auto" }, name);
      const quiet = make("span", { class: "quiet" }, last);
      return make("div", { role: "listitem" }, `[${number}] `, stateOf(word), " ", code, `  ${elapsed}  `, quiet);
    });
    if (rows.length >= MOST) rows.push(make("i", {}, `the first ${MOST}: %jobs shows more`));
    this.part.replaceChildren(...rows);
  }
}

export default CARD_WIDGET;
