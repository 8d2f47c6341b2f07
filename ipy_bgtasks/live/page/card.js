// The card of a job that goes on for a while, with a button that stops it, one that shows its
// whole log, and a bell, which asks for a notice of its end: an anywidget. It looks like the plain
// card that it replaces, and turns back into it when the job has ended.

const LOG_LIMIT = 2_000_000; // characters in the page; the kernel keeps fewer

const BELL =
  '<svg viewBox="0 0 16 16" width="11" height="11" fill="currentColor" aria-hidden="true">' +
  '<path d="M8 1a1 1 0 0 0-1 1v.6A4.5 4.5 0 0 0 3.5 7v3L2 12v1h12v-1l-1.5-2V7A4.5 4.5 0 0 0 ' +
  '9 2.6V2a1 1 0 0 0-1-1zM6.3 14a1.8 1.8 0 0 0 3.4 0z"/></svg>';

// Whether the browser shows notifications of this page: "default" as long as nobody was asked. A
// page that was fetched by plain http from another machine cannot even ask.
function allowed() {
  return "Notification" in window ? Notification.permission : "impossible";
}

class Card {
  constructor(model, el) {
    this.model = model;
    this.client = `${Date.now()}-${Math.random()}`;
    this.isOpen = false;
    this.root = make("div", { class: "bgc" });
    this.line = make("div", { class: "line" });
    this.cancel = make("button");
    this.show = make("button", {}, "Log");
    this.bell = make("button", { class: "bell" });
    this.bell.innerHTML = BELL;
    this.said = make("span", { class: "quiet" });
    this.log = make("pre", { class: "log" });
    this.cancel.type = this.show.type = this.bell.type = "button";
    this.said.setAttribute("role", "status");
    this.log.tabIndex = 0;
    this.log.dir = "auto";
    this.log.hidden = true;
    this.log.setAttribute("role", "log");
    this.log.setAttribute("aria-live", "off");
    this.line.append(this.cancel, this.show, this.bell, this.said);
    this.root.append(this.line, this.log);
    el.append(this.root);
    this.cancel.onclick = () => {
      model.send({ kind: "cancel", force: model.get("card").state === "cancelling" });
    };
    this.show.onclick = () => this.open(!this.isOpen);
    this.bell.onclick = () => this.ring();
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

  async ring() {
    const on = !this.rings();
    if (on && allowed() === "default") await Notification.requestPermission();
    this.said.textContent = "";
    if (on && allowed() === "impossible")
      this.said.textContent = "no notifications here: a page shows them by https or from localhost";
    else if (on && allowed() !== "granted")
      this.said.textContent = "the browser shows no notifications of this page";
    this.model.send({ kind: "notify", on });
  }

  rings() {
    return Boolean(this.model.get("card").notify) && allowed() !== "default";
  }

  close() {
    if (this.isOpen) this.model.send({ kind: "log", client: this.client, open: false });
  }

  draw() {
    const card = this.model.get("card");
    const name = make("code", {}, card.name);
    name.dir = "auto";
    const parts = [make("span", { class: "quiet" }, `[${card.n}]`), stateOf(card.state), name];
    if (card.fraction !== null) parts.push(...progressOf(card.fraction));
    for (const fact of card.facts) if (fact) parts.push(make("span", { class: "quiet" }, fact));
    this.line.title = card.code;
    this.cancel.hidden = card.ended;
    const word = card.state === "cancelling" ? "Force" : "Cancel";
    this.cancel.textContent = word;
    this.cancel.setAttribute("aria-label", `${word} job ${card.n}, ${card.name}`);
    this.show.setAttribute("aria-label", `Log of job ${card.n}, ${card.name}`);
    this.show.setAttribute("aria-pressed", String(this.isOpen));
    this.bell.hidden = card.ended;
    this.bell.title = `Notify me when job ${card.n} has ended`;
    this.bell.setAttribute("aria-label", `Notify when job ${card.n}, ${card.name}, has ended`);
    this.bell.setAttribute("aria-pressed", String(this.rings()));
    if (card.place) this.root.dataset.bg = card.place;
    // The buttons stay where they are in the page, so that they keep the focus.
    while (this.line.firstChild !== this.cancel) this.line.firstChild.remove();
    this.cancel.before(...parts);
    if (card.ended) this.said.textContent = "";
  }

  hear(news) {
    if (news.kind === "said") this.said.textContent = news.text;
    if (news.kind === "log" && this.isOpen) addToLog(this.log, news, LOG_LIMIT);
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
