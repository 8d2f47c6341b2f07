// The card of one job: a grid with fixed places, so that nothing jumps while its facts change.

// Whether the browser shows notifications of this page: "default" as long as nobody was asked. A
// page that was fetched by plain http from another machine cannot even ask.
function allowed() {
  return "Notification" in window ? Notification.permission : "impossible";
}

class JobCard extends View {
  constructor(link, n) {
    super(link, n, "card");
    this.state = new State();
    this.name = make("code", { dir: "auto" });
    this.time = make("span", { class: "quiet time" });
    this.bar = new Bar(`job ${n}`);
    this.facts = make("span", { class: "quiet" });
    this.end = make("code", { class: "end", dir: "auto" });
    this.stop = button("Cancel", () => this.cancel());
    this.show = button("Log", () => (this.pane.el.hidden ? this.openLog() : this.closeLog()), { "aria-expanded": "false" });
    this.bell = button(icon("bell"), () => this.ring(), { class: "icon" });
    const actions = make("span", { class: "do" }, this.stop, this.show, this.bell);
    const facts = make("span", { class: "facts" }, this.name, this.time, this.bar.el, this.facts, this.end, this.said);
    this.line = make("div", { class: "line" }, make("span", { class: "number" }, `[${n}]`), this.state.el, facts, actions);
    this.root.append(this.line, this.pane.el);
  }

  get row() {
    return this.link.rows.get(this.id);
  }

  get shows() {
    return Boolean(this.row);
  }

  draw() {
    const { row, link } = this;
    const lost = !link.alive && !ENDED.has(row.state);
    const ended = ENDED.has(row.state);
    this.state.show(lost ? "lost" : row.state);
    this.root.className = `bgt card ${lost ? "lost" : row.state}`;
    setText(this.name, row.name);
    this.line.title = row.code ?? row.name;
    this.bar.show(ended || lost ? null : row.fraction, row.label);
    const waits = row.kind === "wait" || (row.fraction === null && row.kind === "progress") || row.kind === "reason";
    const again = this.el && "bgtAgain" in this.el.dataset ? "from an earlier run of this cell" : "";
    const gone = lost ? `${link.why}; last seen ${row.state}` : "";
    setText(this.facts, [gone, waits ? row.last : "", again].filter(Boolean).join(" · "));
    const result = ended && (row.kind === "result" || row.kind === "error");
    setText(this.end, result ? (row.kind === "result" ? "→ " : "") + row.last : "");
    this.buttons(row, ended);
    this.tick();
  }

  buttons(row, ended) {
    const job = `job ${this.id}, ${row.name}`;
    const word = row.state !== "cancelling" ? "Cancel" : KILLED.has(row.where.split(" ")[0]) ? "Kill" : "Insist";
    const moves = ended && document.activeElement === this.stop;
    setText(this.stop, word);
    relabel(this.stop, `${word} ${job}`);
    this.stop.hidden = ended || !this.link.alive;
    this.show.hidden = !this.link.alive;
    this.bell.hidden = ended || !this.link.alive;
    if (moves) this.show.focus();
    this.show.setAttribute("aria-label", `Log of ${job}`);
    relabel(this.bell, `Notify when ${job}, has ended`);
    this.bell.setAttribute("aria-pressed", String(this.rings()));
    if (ended) this.say("");
  }

  tick() {
    const { row } = this;
    setText(this.time, timeOf(row, this.link));
    this.time.title = row.started === null ? "" : `started ${clock(row.started - this.link.skew)}`;
  }

  cancel() {
    this.link.send("cancel", { job: this.id, force: this.row.state === "cancelling", to: this.id });
  }

  openLog(note = "") {
    this.pane.open(this.id, { title: "Log", note });
    this.show.setAttribute("aria-expanded", "true");
  }

  // Open it by itself when more comes, which is shown nowhere else in this page.
  await() {
    if (this.pane.n === null) this.pane.open(this.id, { title: "Log", note: "came while this page was away", quietly: true });
  }

  closeLog() {
    this.link.dropLog(this.id, this.pane);
    this.pane.open(null);
    this.show.setAttribute("aria-expanded", "false");
    this.show.focus();
  }

  rings() {
    return Boolean(this.row.notify) && allowed() !== "default";
  }

  async ring() {
    const on = !this.rings();
    if (on && allowed() === "default") await Notification.requestPermission();
    this.say("");
    if (on && allowed() === "impossible") this.say("no notifications here: a page shows them by https or from localhost");
    else if (on && allowed() !== "granted") this.say("the browser shows no notifications of this page");
    this.link.send("notify", { job: this.id, on });
  }
}
