// What the pages do in the browser itself: the time zone, where one is, the end of a login.
(() => {
  'use strict';

  // Times are shown as the reader's clock has them.
  try {
    const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
    document.cookie = `pybak_zone=${zone};path=/dashboard;samesite=lax;max-age=31536000`;
  } catch { /* then they are in UTC */ }

  // When the login has ended, pages go to the login and come back; when nobody answers, they say so.
  const ask = window.fetch.bind(window);
  const isSilent = (silent) => {
    const said = document.getElementById('silent');
    if (said) said.className = silent ? '' : 'gone';
  };
  window.fetch = async (...given) => {
    let answer;
    try {
      answer = await ask(...given);
    } catch (error) {
      if (error.name !== 'AbortError') isSilent(true);
      throw error;
    }
    isSilent(answer.status > 501);
    if (answer.status === 401) {
      const here = window.location.pathname + window.location.search;
      window.location.assign(`/dashboard/login?next=${encodeURIComponent(here)}`);
    }
    return answer;
  };

  let shown = null;
  const arrived = (title, page) => {
    if (!title) return null;
    document.title = `${title} – PyBak`;
    const path = window.location.pathname.replace(/\/$/, '');
    for (const link of document.querySelectorAll('#menu a')) {
      const to = new URL(link.href).pathname.replace(/\/$/, '');
      const isHere = path === to || (to !== '/dashboard' && path.startsWith(`${to}/`)) ||
        (to.endsWith('/files') && /\/(file|restore)$/.test(path)) ||
        (to === '/dashboard' && path.endsWith('/job'));
      if (isHere) {
        link.setAttribute('aria-current', 'page');
        link.scrollIntoView({ block: 'nearest', inline: 'nearest' });
      } else link.removeAttribute('aria-current');
    }
    if (shown !== null && shown !== page) {
      window.dash_clientside.set_props('fault', { children: [] });
      window.scrollTo(0, 0);
      // Who hears the page, or uses the keyboard, begins at its start.
      document.getElementById('page')?.focus({ preventScroll: true });
      const said = document.getElementById('said');
      if (said) said.textContent = title;
    }
    shown = page;
    return null;
  };

  // The address keeps a search, so that going back finds it again.
  const keepSearch = (text) => {
    const address = new URL(window.location.href);
    if (text) address.searchParams.set('q', text);
    else address.searchParams.delete('q');
    // "+" is a space in forms alone.
    const query = address.search.replace(/\+/g, '%20');
    window.history.replaceState(window.history.state, '', address.pathname + query);
    return null;
  };

  // Whose turn it is to ask again: not before the last question was answered, or half a minute is
  // over. `asked` and `answered` hold the number of a turn.
  const turn = (ticks, asked, answered) => {
    const now = Date.now();
    const waits = asked ? answered?.turn !== asked.turn && now - asked.at < 30000
      : !answered && ticks < 15;
    if (waits) return window.dash_clientside.no_update;
    return { turn: (asked?.turn ?? 0) + 1, at: now };
  };

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    pybak: { arrived, keepSearch, turn },
  });

  // Dash calls its radio buttons a list box, which they are not for those who hear the page.
  const rename = () => {
    for (const list of document.querySelectorAll('.dash-radioitems[role="listbox"]')) {
      const legend = list.closest('fieldset')?.querySelector('legend');
      list.setAttribute('role', 'radiogroup');
      if (legend) list.setAttribute('aria-label', legend.textContent);
    }
    for (const one of document.querySelectorAll('.dash-radioitems label[role], .dash-radioitems label[aria-selected]')) {
      one.removeAttribute('role');
      one.removeAttribute('aria-selected');
    }
  };
  // What is looked at again is made anew: the keyboard stays where it was, at the same link or field.
  let focused = null;
  document.addEventListener('focusin', (event) => { focused = event.target; });
  const keepFocus = () => {
    if (!focused || focused.isConnected || document.activeElement !== document.body) return;
    const href = focused.getAttribute('href');
    const again = focused.id ? document.getElementById(focused.id)
      : href && [...document.querySelectorAll('#page a')].find(
        (one) => one.getAttribute('href') === href && one.textContent === focused.textContent);
    again?.focus({ preventScroll: true });
  };
  // The log of a run at work stays at its end, unless somebody reads further up.
  let log = null;
  let isAtEnd = false;
  const followLog = () => {
    const found = document.getElementById('log-lines');
    if (found !== log) {
      log = found;
      isAtEnd = document.querySelector('#run-head .verdict.running') !== null;
      log?.addEventListener('scroll', () => {
        isAtEnd = found.scrollTop + found.clientHeight >= found.scrollHeight - 8;
      });
    }
    if (log && isAtEnd) log.scrollTop = log.scrollHeight;
  };
  new MutationObserver(() => { rename(); keepFocus(); followLog(); }).observe(document.documentElement, {
    childList: true, subtree: true, attributes: true, attributeFilter: ['role', 'aria-selected'],
  });

  // What is typed into a search is told after a pause; see `search` in parts.py.
  const pauses = new Map();
  document.addEventListener('input', (event) => {
    const field = event.target;
    if (field.type !== 'search' || !field.id) return;
    clearTimeout(pauses.get(field.id));
    pauses.set(field.id, setTimeout(() => {
      if (field.isConnected) window.dash_clientside.set_props(`${field.id}-typed`, { data: field.value });
    }, 250));
  });
  // "/" goes to the search, as in many places.
  document.addEventListener('keydown', (event) => {
    const tag = event.target.tagName;
    if (event.key !== '/' || event.ctrlKey || event.metaKey || tag === 'INPUT' || tag === 'TEXTAREA') return;
    const field = document.querySelector('input[type=search]');
    if (field) {
      event.preventDefault();
      field.focus();
    }
  });
  document.addEventListener('click', (event) => {
    for (const open of document.querySelectorAll('details.picker[open]')) {
      if (!open.contains(event.target) || event.target.closest('a')) open.open = false;
    }
  });
  document.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape') return;
    for (const open of document.querySelectorAll('details.picker[open]')) {
      open.open = false;
      open.querySelector('summary').focus();
    }
  });
})();
