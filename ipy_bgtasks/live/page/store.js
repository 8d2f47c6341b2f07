// What one panel knows: the rows, and the messages to and from the kernel.

const ACK_EVERY = 100; // messages; the kernel stops sending when it hears nothing for long
const GUARD = 800; // ms in which a button that just took another's place does nothing

class Store {
  constructor(model) {
    this.model = model;
    this.client = Array.from(crypto.getRandomValues(new Uint8Array(12)), (b) =>
      b.toString(16).padStart(2, "0"),
    ).join("");
    this.rows = new Map((model.get("rows") ?? []).map((row) => [row.n, row]));
    this.timeline = model.get("timeline");
    this.current = this.previous = null;
    this.left = {}; // how long groups will still take, by name
    this.cell = null; // the one that runs in the foreground, if it can be sent to the background
    this.live = false; // whether a kernel answers
    this.over = "";
    this.skew = 0; // seconds the kernel's clock is ahead of ours
    this.views = new Set();
    this.received = 0;
    this.looked = "[]";
    this.onMessage = (message) => this.receive(message);
    model.on("msg:custom", this.onMessage);
  }

  now() {
    return Date.now() / 1000 + this.skew;
  }

  send(kind, fields = {}) {
    this.model.send({ kind, client: this.client, ...fields });
  }

  add(view) {
    this.views.add(view);
    if (this.views.size === 1) this.send("open");
  }

  remove(view) {
    this.views.delete(view);
    this.look();
    if (!this.views.size) this.send("close");
  }

  close() {
    this.model.off("msg:custom", this.onMessage);
    if (this.views.size) this.send("close");
  }

  receive(message) {
    if (++this.received % ACK_EVERY === 0) this.send("ack");
    if (message.kind === "news") this.news(message);
    else if (message.kind === "said") for (const view of this.views) view.say(message.text);
    else if (message.kind === "over") {
      this.over = message.text;
      this.live = false;
      for (const view of this.views) view.update(new Set());
    }
  }

  news(message) {
    const ahead = message.now - Date.now() / 1000;
    // What comes late makes the kernel's clock look late: the largest is nearest to the truth.
    this.skew = this.live && !message.reset ? Math.max(this.skew, ahead) : ahead;
    this.live = true;
    this.over = "";
    if (message.reset) {
      this.rows.clear();
      this.looked = "[]";
    }
    const changed = new Set();
    for (const row of message.rows) {
      const before = this.rows.get(row.n);
      if (before && !ENDED.has(before.state) && ENDED.has(row.state)) row.guard = Date.now() + GUARD;
      this.rows.set(row.n, row);
      changed.add(row.n);
    }
    for (const n of message.gone) this.rows.delete(n);
    Object.assign(this.left, message.left);
    this.timeline = message.timeline ?? this.timeline;
    for (const mark of [this.current, this.previous, message.current, message.previous])
      if (mark !== null) changed.add(mark);
    this.current = message.current;
    this.previous = message.previous;
    this.cell = message.cell;
    for (const view of this.views) {
      view.update(changed);
      for (const log of message.logs) view.log(log);
    }
    this.look();
  }

  // Tell the kernel which rows are in sight: only those need their last line.
  look() {
    const numbers = new Set();
    for (const view of this.views) for (const n of view.inSight) numbers.add(n);
    const looked = JSON.stringify([...numbers].filter((n) => this.rows.has(n)).slice(0, 300).sort());
    if (looked === this.looked || !this.live) return;
    this.looked = looked;
    this.send("look", { jobs: JSON.parse(looked) });
  }

  // A log is wanted as long as a view shows it.
  wantLog(n, wanted) {
    if (!wanted && [...this.views].some((view) => view.shownLog === n)) return;
    this.send("log", { job: n, open: wanted });
  }
}
