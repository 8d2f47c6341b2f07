// All that is known of a job's output: its log, and its traceback at the end.

const LOG_LIMIT = 2_000_000; // characters in the page; the kernel keeps fewer

class LogPane {
  constructor(link, closed) {
    this.link = link;
    this.closed = closed;
    this.n = null;
    this.follows = true;
    this.title = make("span", { class: "title" });
    this.note = make("span", { class: "quiet" });
    this.text = make("pre", { tabindex: "0", role: "log", "aria-live": "off", dir: "auto", "data-lm-suppress-shortcuts": "true" });
    this.text.onscroll = () => {
      this.at = this.text.scrollTop;
      this.follows = this.text.scrollHeight - this.at - this.text.clientHeight < 30;
      this.end.hidden = this.follows;
    };
    this.end = button("Follow", () => this.toEnd(), { "aria-label": "Follow the end of the log", hidden: "" });
    this.copy = button("Copy", () => this.toClipboard(), { "aria-label": "Copy the log" });
    const close = button("Close", () => this.closed(), { "aria-label": "Close the log" });
    this.head = make("div", { class: "head" }, this.title, this.note, this.end, this.copy, close);
    this.el = make("section", { class: "log", "aria-label": "Log", hidden: "" }, this.head, this.text);
  }

  // Show the log of a job, or with null none; quietly if it is only to be opened by what comes.
  open(n, { title = "", note = "", quietly = false } = {}) {
    if (this.n !== null && this.n !== n) this.link.dropLog(this.n, this);
    const same = this.n === n && n !== null;
    this.n = n;
    this.quietly = quietly;
    this.el.hidden = n === null || quietly;
    if (n === null) return;
    setText(this.title, title);
    setText(this.note, note);
    if (same) return this.restore();
    this.follows = true;
    this.text.replaceChildren();
    this.link.wantLog(n, this);
  }

  hear({ replace, segments }) {
    if (replace) this.text.replaceChildren();
    this.text.querySelector("i")?.remove();
    for (const [stream, text] of segments) this.text.append(make("span", { class: stream }, text));
    while (this.text.childNodes.length > 1 && this.text.textContent.length > LOG_LIMIT) this.text.firstChild.remove();
    if (!this.text.childNodes.length) this.text.append(make("i", {}, "No output."));
    if (this.quietly && !replace) this.el.hidden = this.quietly = false; // it comes, and nobody else shows it
    if (this.follows) this.toEnd();
  }

  toEnd() {
    this.follows = true;
    this.end.hidden = true;
    this.text.scrollTop = this.text.scrollHeight;
  }

  // What was moved within the page has lost its place.
  restore() {
    if (this.follows) this.toEnd();
    else this.text.scrollTop = this.at;
  }

  async toClipboard() {
    try {
      await navigator.clipboard.writeText(this.text.textContent);
      this.said("Copied");
    } catch {
      getSelection().selectAllChildren(this.text); // a page by plain http may not write there
      this.said("Selected");
    }
  }

  said(word) {
    setText(this.copy, word);
    setTimeout(() => setText(this.copy, "Copy"), 1500);
  }
}

// What all cards and the panel have in common: a root that is put into the page's HTML, a line that
// says what came of a button, and keys that stay inside.
class View {
  constructor(link, id, name) {
    this.link = link;
    this.id = id;
    this.root = make("div", { class: `bgt ${name}` });
    this.said = make("span", { class: "said", role: "status", "aria-live": "polite", dir: "auto" });
    this.pane = new LogPane(link, () => this.closeLog());
    this.root.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && !this.pane.el.hidden) this.closeLog();
      if (event.key !== "Tab") event.stopPropagation();
    });
    this.root.addEventListener("focusin", ({ target }) => (this.focused = target));
    this.root.addEventListener("focusout", ({ relatedTarget }) => {
      if (relatedTarget) this.focused = null;
    });
  }

  // Put it where the HTML stands now; an update of the display has made that anew.
  place(el) {
    this.el = el;
    const focused = this.focused?.isConnected === false && document.activeElement === document.body ? this.focused : null;
    el.replaceChildren(this.root);
    this.pane.restore();
    focused?.focus({ preventScroll: true });
  }

  say(text) {
    setText(this.said, text);
    this.said.title = text;
  }
}
