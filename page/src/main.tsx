// The page: a head, where sound comes in, the recordings of this browser, and the one that is shown.

import { render } from "preact";
import "./style.css";
import { Capture } from "./parts/capture";
import { Detail } from "./parts/detail";
import * as icons from "./parts/icons";
import { List } from "./parts/list";
import { applyPreferences, nextTheme, prefer, preferences, sentence, t } from "./preferences";
import { announcement, offered, recordings, start, whenEnded } from "./recordings";
import { address } from "./service";

function Head() {
  const { language, theme } = preferences.value;
  const other = language === "mr" ? "en" : "mr";
  return (
    <header class="head">
      <a class="skip" href="#text">
        {t.value.skip}
      </a>
      <div class="brand">
        <h1>
          <span lang="mr">श्रोता</span>
          {language === "en" && <small>shrota</small>}
        </h1>
        <p class="soft">{t.value.tagline}</p>
      </div>
      <nav>
        <button type="button" class="quiet" lang={other} onClick={() => prefer({ language: other })}>
          {t.value.interfaceLanguage}
        </button>
        <button
          type="button"
          class="quiet icon-only"
          aria-label={t.value.theme[theme]}
          title={t.value.theme[theme]}
          onClick={nextTheme}
        >
          <icons.Theme />
        </button>
      </nav>
    </header>
  );
}

function Page() {
  const isEmpty = !recordings.value.length;
  const docs = offered.value.facts?.docs;
  return (
    <>
      <Head />
      <main class={isEmpty ? "first" : ""}>
        {isEmpty && (
          <div class="welcome" id="text" tabIndex={-1}>
            <h2>{t.value.emptyTitle}</h2>
            <p>{t.value.emptyText}</p>
          </div>
        )}
        <div class="side">
          <Capture />
          <List />
        </div>
        {!isEmpty && <Detail />}
      </main>
      <footer class="foot soft">
        {isEmpty && <span>{t.value.kept}</span>}
        {docs && <a href={address(docs).href}>{t.value.reference}</a>}
      </footer>
      <div class="unseen" role="status" aria-live="polite">
        {announcement.value}
      </div>
    </>
  );
}

whenEnded(({ name, state, failure }) => {
  if (state === "done") announcement.value = t.value.announceDone(name);
  else if (failure) announcement.value = t.value.announceFailed(name, sentence(failure));
});
applyPreferences();
render(<Page />, document.getElementById("app")!);
void start();
