// The one card of all jobs that a cell has launched: counts, how far they are, who failed, a list.

const MOST = 300; // rows of the list; the kernel names no more
const ORDER = ["queued", "running", "paused", "cancelling", "finished", "failed", "cancelled"];

class SweepCard extends View {
  constructor(link, id) {
    super(link, id, "card sweep");
    this.title = make("span", { class: "number" });
    this.counts = make("span", { class: "counts" });
    this.bar = new Bar("all");
    this.facts = make("span", { class: "quiet" });
    this.stop = button("Cancel all", () => this.link.send("cancel all", { many: id, to: id }));
    this.show = button("List", () => this.openList(!this.isOpen), { "aria-expanded": "false" });
    const actions = make("span", { class: "do" }, this.stop, this.show);
    const facts = make("span", { class: "facts" }, this.counts, this.bar.el, this.facts, this.said);
    this.chips = make("div", { class: "chips" });
    this.list = make("div", { class: "list", tabindex: "0", role: "list", "aria-label": "Jobs of this cell", hidden: "", "data-lm-suppress-shortcuts": "true" });
    this.traces = make("div", { class: "traces" });
    this.line = make("div", { class: "line" }, this.title, facts, actions);
    this.root.append(this.line, this.chips, this.list, this.pane.el, this.traces);
    this.isOpen = false;
    this.lines = new Map(); // number -> what is in the list for it
    this.root.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.pane.el.hidden && this.isOpen) this.openList(false);
    });
  }

  get row() {
    return this.link.many.get(this.id);
  }

  get shows() {
    return Boolean(this.row);
  }

  openList(wanted) {
    this.isOpen = wanted;
    this.list.hidden = !wanted;
    this.show.setAttribute("aria-expanded", String(wanted));
    this.link.seen();
    this.draw();
    if (!wanted) this.show.focus();
  }

  draw() {
    const { row, link } = this;
    const lost = !link.alive && !row.ended;
    this.root.className = `bgt card sweep ${lost ? "lost" : row.ended && row.failed.length ? "failed" : ""}`;
    setText(this.title, row.title);
    const words = ORDER.filter((word) => row.counts[word]);
    this.counts.replaceChildren(...words.map((word) => this.count(word, row.counts[word], lost)));
    this.bar.show(row.ended || lost ? null : row.fraction, row.left);
    setText(this.facts, lost ? `${link.why}; last seen so` : "");
    const moves = row.ended && document.activeElement === this.stop;
    this.stop.hidden = row.ended || !link.alive;
    this.show.hidden = !link.alive && !this.isOpen;
    if (moves) this.show.focus();
    this.stop.setAttribute("aria-label", `Cancel all of ${row.title}`);
    this.show.setAttribute("aria-label", `List of ${row.title}`);
    if (row.ended) this.say("");
    this.drawFailures(row);
    if (this.isOpen) this.drawList(row.list ?? []);
  }

  count(word, number, lost) {
    const shown = new State();
    shown.show(lost && !ENDED.has(word) ? "lost" : word);
    setText(shown.word, `${number.toLocaleString("en")} ${word}`);
    return shown.el;
  }

  // The failures by what went wrong; who they were, and what each said, is one press away.
  drawFailures({ failed, kinds, counts }) {
    const key = JSON.stringify([kinds, failed.map((each) => each.number)]);
    if (key === this.drawn) return;
    this.drawn = key;
    const groups = Object.entries(kinds).map(([kind, count]) => {
      const chips = failed.filter((each) => each.kind === kind).map(({ number: n, name, message }) =>
        button(`[${n}] ${name}`, () => this.openLog(n, name), { class: "chip", title: message, "aria-label": `Log of job ${n}, ${name}: ${message}` }),
      );
      const rest = count - chips.length;
      if (rest > 0) chips.push(make("span", { class: "quiet" }, `and ${rest.toLocaleString("en")} more`));
      return make("div", {}, make("b", {}, `${count.toLocaleString("en")} × ${kind}`), " ", ...chips);
    });
    this.chips.replaceChildren(...groups);
    const known = new Set([...this.traces.children].map((el) => el.dataset.n));
    for (const { number: n, name, kind, message, trace } of failed) {
      if (!trace || known.has(n)) continue;
      const text = make("pre", { tabindex: "0", "data-lm-suppress-shortcuts": "true" }, trace);
      const title = make("summary", { "data-lm-suppress-shortcuts": "true" }, `[${n}] ${name}: ${kind}${message ? `: ${message}` : ""}`);
      this.traces.append(make("details", { "data-n": n }, title, text));
    }
    this.traces.append(...[...this.traces.children].sort((a, b) => a.dataset.n - b.dataset.n)); // those that are open stay so
    this.traces.querySelector("p")?.remove();
    const rest = (counts.failed ?? 0) - this.traces.children.length;
    if (rest > 0) this.traces.append(make("p", { class: "quiet" }, `${rest} more: their logs end with the traceback`));
  }

  drawList(numbers) {
    const lines = numbers.map((n) => {
      let line = this.lines.get(n);
      const row = this.link.rows.get(n);
      if (!line) {
        line = { state: new State(), name: make("code", { dir: "auto" }), time: make("span", { class: "time" }), last: make("span", { class: "quiet last", dir: "auto" }) };
        line.log = button(icon("log"), () => this.openLog(n, row?.name ?? ""), { class: "icon", "aria-label": `Log of job ${n}` });
        line.el = make("div", { role: "listitem", class: "item" }, make("span", { class: "number" }, `[${n}]`), line.state.el, line.name, line.time, line.last, line.log);
        this.lines.set(n, line);
      }
      if (!row) return line.el;
      line.state.show(!this.link.alive && !ENDED.has(row.state) ? "lost" : row.state);
      setText(line.name, row.name);
      setText(line.time, timeOf(row, this.link));
      setText(line.last, row.fraction === null ? (row.kind === "result" ? "→ " : "") + row.last : `${Math.floor(row.fraction * 100)}% ${row.label}`);
      return line.el;
    });
    if (numbers.length >= MOST) lines.push(make("i", {}, `the first ${MOST}: %jobs -a shows all`));
    const now = [...this.list.childNodes];
    if (lines.length !== now.length || lines.some((el, i) => el !== now[i])) {
      const at = this.list.scrollTop;
      this.list.replaceChildren(...lines);
      this.list.scrollTop = at;
    }
  }

  tick() {
    if (this.isOpen && !this.row.ended) this.drawList(this.row.list ?? []);
  }

  openLog(n, name) {
    this.pane.open(n, { title: `Log of [${n}] ${name}` });
  }

  closeLog() {
    if (this.pane.n !== null) this.link.dropLog(this.pane.n, this.pane);
    this.pane.open(null);
    this.show.focus();
  }
}
