// What a page does with a notice while nobody looks at it: an anywidget without a view, one for
// each kernel. It shows a notification of the browser's, where that was allowed by a click on the
// bell of a card, and marks the title of the page until somebody looks.

const MARK = "● ";

function marked() {
  return document.title.startsWith(MARK);
}

function notify({ title, body, place }) {
  if (!("Notification" in window) || Notification.permission !== "granted") return;
  const tag = `ipy-bgtasks ${place} ${title}`; // one, though several pages show the notebook
  let shown;
  try {
    shown = new Notification(title, { body, tag });
  } catch {
    return; // some browsers on phones have it for service workers only
  }
  shown.onclick = () => {
    window.focus();
    scrollTo(place);
    shown.close();
  };
}

function scrollTo(place) {
  if (!place) return;
  const card = document.querySelector(`[data-bg="${CSS.escape(place)}"]`);
  card?.scrollIntoView({ block: "center" });
}

export default {
  initialize({ model }) {
    // The application gives the page its title again now and then.
    const keeper = new MutationObserver(() => mark());
    const mark = () => {
      if (!marked()) document.title = MARK + document.title;
    };
    const look = () => {
      if (document.hidden) return;
      keeper.disconnect();
      if (marked()) document.title = document.title.slice(MARK.length);
    };
    const hear = (message) => {
      if (message.kind !== "notice" || !document.hidden) return;
      mark();
      const title = document.querySelector("title");
      if (title) keeper.observe(title, { childList: true });
      notify(message);
    };
    model.on("msg:custom", hear);
    document.addEventListener("visibilitychange", look);
    return () => {
      keeper.disconnect();
      document.removeEventListener("visibilitychange", look);
      model.off("msg:custom", hear);
    };
  },
};
