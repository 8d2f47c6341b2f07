// The card of a job that goes on for a while, with a button that stops it, one that shows its
// whole log, and a bell, which asks for a notice of its end.

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

class JobCard extends Card {
  constructor(model) {
    super(model, "log", "Log", make("pre", { class: "log", tabindex: "0", dir: "auto", role: "log", "aria-live": "off" }));
    this.bell = make("button", { type: "button", class: "bell" });
    this.bell.innerHTML = BELL;
    this.show.after(this.bell);
    this.cancel.onclick = () => {
      model.send({ kind: "cancel", force: model.get("card").state === "cancelling" });
    };
    this.bell.onclick = () => this.ring();
  }

  open(wanted) {
    this.part.replaceChildren();
    super.open(wanted);
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

  draw() {
    const card = this.model.get("card");
    const name = make("code", { dir: "auto" }, card.name);
    this.showFacts([make("span", { class: "quiet" }, `[${card.n}]`), stateOf(card.state), name], card);
    this.line.title = card.code;
    if (card.place) this.root.dataset.bg = card.place;
    const word = card.state === "cancelling" ? "Force" : "Cancel";
    const job = `job ${card.n}, ${card.name}`;
    this.cancel.textContent = word;
    this.cancel.setAttribute("aria-label", `${word} ${job}`);
    this.show.setAttribute("aria-label", `Log of ${job}`);
    this.bell.hidden = card.ended;
    this.bell.title = `Notify me when job ${card.n} has ended`;
    this.bell.setAttribute("aria-label", `Notify when ${job}, has ended`);
    this.bell.setAttribute("aria-pressed", String(this.rings()));
  }

  hear(news) {
    super.hear(news);
    if (news.kind === "log" && this.isOpen) addToLog(this.part, news, LOG_LIMIT);
  }
}
