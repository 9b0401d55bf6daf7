// What the pages do in the browser itself: the time zone, where one is, the end of a login.
(() => {
  'use strict';

  // Times are shown as the reader's clock has them.
  try {
    const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
    document.cookie = `pybak_zone=${zone};path=/dashboard;samesite=lax;max-age=31536000`;
  } catch { /* then they are in UTC */ }

  // When the login has ended, pages go to the login and come back.
  const ask = window.fetch.bind(window);
  window.fetch = async (...given) => {
    const answer = await ask(...given);
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

  window.dash_clientside = Object.assign({}, window.dash_clientside, {
    pybak: { arrived, keepSearch },
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
  new MutationObserver(rename).observe(document.documentElement, {
    childList: true, subtree: true, attributes: true, attributeFilter: ['role', 'aria-selected'],
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
