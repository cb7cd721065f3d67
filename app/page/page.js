// The page: it asks for a key, follows the stream, and shows what it was told. All text
// that is not ours becomes a text node, never HTML.

// ---- Nodes -------------------------------------------------------------------

const svgTags = new Set(['svg', 'path', 'rect']);

function el(tag, attributes, ...children) {
  const node = svgTags.has(tag) ? document.createElementNS('http://www.w3.org/2000/svg', tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (name.startsWith('on')) node[name] = value;
    else if (value !== undefined && value !== false) node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat(Infinity).filter((c) => c !== undefined && c !== false && c !== ''));
  return node;
}

// patch makes the children of parent those of wanted, and changes nothing else: focus,
// selection and place on the screen stay. Children with the same key are the same.
function patch(parent, wanted) {
  const focused = document.activeElement;
  const keyed = new Map();
  for (const node of parent.children) if (node.dataset?.key) keyed.set(node.dataset.key, node);
  const fresh = new Set(wanted);
  let at = parent.firstChild;
  for (const node of wanted) {
    let old = node.parentNode === parent ? node : keyed.get(node.dataset?.key);
    if (!old && at && !fresh.has(at) && !node.dataset?.key && !at.dataset?.key && at.nodeName === node.nodeName) old = at;
    const use = old ?? node;
    if (old && old !== node) morph(old, node);
    if (use === at) at = at.nextSibling;
    else parent.insertBefore(use, at);
    fresh.add(use);
  }
  while (at) {
    const next = at.nextSibling;
    if (!fresh.has(at)) at.remove();
    at = next;
  }
  if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
}

function morph(old, node) {
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== node.data) old.data = node.data;
    return;
  }
  for (const { name } of [...old.attributes]) if (!node.hasAttribute(name) && name !== 'open') old.removeAttribute(name);
  for (const { name, value } of node.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const name of ['onclick', 'onsubmit', 'onchange']) old[name] = node[name];
  patch(old, [...node.childNodes]);
}

const shapes = {
  in: 'M5 12.5l4.5 4.5L19 7.5M12 1.8a10.2 10.2 0 1 0 0 20.4 10.2 10.2 0 0 0 0-20.4',
  late: 'M12 3L1.8 21h20.4zM12 10v5M12 18v.2',
  missing: 'M4 4h16v16H4zM8.5 8.5l7 7M15.5 8.5l-7 7',
  waiting: 'M12 2a10 10 0 0 1 5 1.3M20.7 7A10 10 0 0 1 22 12M20.7 17A10 10 0 0 1 17 20.7M12 22a10 10 0 0 1-5-1.3M3.3 17A10 10 0 0 1 2 12M3.3 7A10 10 0 0 1 7 3.3',
  differs: 'M4 9h16M4 15h16M17 3L7 21',
  point: 'M12 8.5a3.5 3.5 0 1 0 0 7 3.5 3.5 0 0 0 0-7',
};
const icon = (shape) => el('svg', { class: 'icon', viewBox: '0 0 24 24', 'aria-hidden': 'true' }, el('path', { d: shapes[shape] }));

// visible shows what would change the direction of writing, or not show at all.
const visible = (s) => String(s ?? '').replace(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, '\ufffd');
const text = (s, attributes) => el('bdi', attributes, visible(s));

// ---- Words -------------------------------------------------------------------

const statusWords = { collecting: 'Collecting', replicated: 'Replicated', timedOut: 'Timed out', recovered: 'Recovered' };
const statusShapes = { collecting: 'waiting', replicated: 'in', timedOut: 'missing', recovered: 'in', pending: 'waiting', delivered: 'in', failed: 'missing', superseded: 'point' };
const said = { replicated: 'is in all regions', timedOut: 'timed out with regions missing', recovered: 'is in all regions after all' };
const ways = { '': 'by its webhook', queue: 'by the queue', 'event-log': 'from the event log of ACR' };

function duration(ms) {
  const s = Math.max(0, ms) / 1000;
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 60) return `${Math.floor(s)} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${Math.floor(s % 60)} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', second: '2-digit', hourCycle: 'h23' });
const day = new Intl.DateTimeFormat(undefined, { month: 'short', day: 'numeric' });
function when(time) {
  const at = new Date(time);
  const today = at.toDateString() === new Date().toDateString();
  return el('time', { datetime: time, title: time }, (today ? '' : day.format(at) + ', ') + clock.format(at));
}

const nameOf = (s) => (s.repository || '(no repository)') + (s.tag ? ':' + s.tag : s.digest ? '@' + s.digest.slice(0, 19) + '…' : '');
const shortDigest = (d) => (d.length > 24 ? d.slice(0, 19) + '…' : d);
const state = (name) => el('span', { class: `status is-${name}` }, icon(statusShapes[name] ?? 'point'), statusWords[name] ?? name[0].toUpperCase() + name.slice(1));

// ---- What is known -----------------------------------------------------------

const known = {
  all: new Map(), // statuses by id
  page: null, // the ids of an older page; null for the newest
  cursor: '', // of the next page
  loaded: false,
  skew: 0, // the service's clock less ours
};

const now = () => Date.now() + known.skew;
const ms = (time) => Date.parse(time);
const rank = (s) => ['collecting', 'replicated', 'timedOut', 'recovered'].indexOf(s.status) * 10000 + (s.regions.length + (s.optional ?? []).filter((r) => r.receivedAt).length) * 2 + (s.mismatch ? 1 : 0);

// learn takes in a status, unless a later one is known: a status only ever goes forward.
function learn(s) {
  const old = known.all.get(s.id);
  if (old && rank(old) >= rank(s)) return false;
  known.all.set(s.id, s);
  if (old?.status !== s.status && said[s.status] && known.loaded) announce(`${visible(nameOf(s))} ${said[s.status]}`);
  return true;
}

const receive = {
  page(p) {
    known.skew = ms(p.now) - Date.now();
    const before = [...known.all.values()].filter((s) => s.status === 'collecting');
    const all = new Map(before.map((s) => [s.id, s]));
    for (const s of p.notifications) {
      const old = known.all.get(s.id);
      all.set(s.id, old && rank(old) >= rank(s) ? old : s);
    }
    known.all = all;
    known.page = location.pathname === '/' && new URLSearchParams(location.search).get('cursor') ? new Set(p.notifications.map((s) => s.id)) : null;
    known.cursor = p.cursor;
    known.loaded = true;
  },
  open(list) {
    const open = new Set(list.map((s) => s.id));
    for (const [id, s] of known.all) if (s.status === 'collecting' && !open.has(id) && !known.page?.has(id)) known.all.delete(id);
    list.forEach(learn);
  },
  changed(list) {
    for (const s of list) if (learn(s) && s.id === detail.id) loadDetail();
    for (const [id, s] of known.all) {
      if (known.all.size <= 600) break;
      if (s.status !== 'collecting') known.all.delete(id);
    }
  },
  error() {},
};

const filterNames = ['search', 'status', 'region', 'registry', 'repository', 'tag', 'since', 'cursor'];
function filters() {
  const given = new URLSearchParams(location.search);
  const f = new URLSearchParams();
  for (const name of filterNames) if (given.get(name)) f.set(name, given.get(name));
  return f;
}

const plainRegion = (r) => r.toLowerCase().replace(/[ \t-]/g, '');

// matches is what GET /notifications does with the same filters.
function matches(s, f) {
  const is = (name, value) => !f.get(name) || f.get(name) === value;
  const search = f.get('search')?.trim().toLowerCase();
  return (!search || `${s.repository}:${s.tag}@${s.digest}`.toLowerCase().includes(search)) &&
    is('status', s.status) && is('repository', s.repository) && is('tag', s.tag) &&
    (!f.get('registry') || f.get('registry').toLowerCase() === s.registry) &&
    (!f.get('region') || s.missing.includes(plainRegion(f.get('region'))));
}

// ---- The service -------------------------------------------------------------

let key = sessionStorage.getItem('key') ?? '';

class Refused extends Error {}

async function call(path, options = {}) {
  const { as = key, ...rest } = options;
  const headers = { Accept: 'application/json' };
  if (as) headers.Authorization = `Bearer ${as}`;
  const response = await fetch(path, { ...rest, headers, cache: 'no-store', credentials: 'omit', redirect: 'error' });
  if (response.status === 401 || response.status === 403) throw new Refused();
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    throw Object.assign(new Error(problem.detail || problem.title || `HTTP ${response.status}`), { status: response.status });
  }
  return response;
}

const silence = 40_000; // the service says something every 15 s
let streaming; // aborts the stream

// follow reads streams, one after another, until its signal ends it.
async function follow() {
  streaming?.abort();
  const end = (streaming = new AbortController()).signal;
  const query = location.pathname === '/' ? filters() : new URLSearchParams({ limit: '1' });
  for (let failures = 0; !end.aborted; ) {
    const quiet = new AbortController();
    let timer = setTimeout(() => quiet.abort(), silence);
    try {
      const response = await call('/stream?' + query, { signal: AbortSignal.any([end, quiet.signal]) });
      for await (const line of lines(response.body)) {
        if (end.aborted) return;
        clearTimeout(timer);
        timer = setTimeout(() => quiet.abort(), silence);
        failures = 0;
        connection(line.error ? 'trouble' : 'live');
        for (const name in line) receive[name]?.(line[name]);
        show();
      }
      await pause(200 + 800 * Math.random(), end); // it ends by itself now and then
    } catch (err) {
      if (end.aborted) return;
      if (err instanceof Refused) return ask(key ? 'This key is not accepted.' : '');
      if (err.status === 400) return fail(err);
      connection('lost');
      await pause(Math.min(10_000, 500 * 2 ** failures++) * (0.75 + Math.random() / 2), end);
    } finally {
      clearTimeout(timer);
    }
  }
}

// lines are the JSON lines of a body. What is cut off is no line.
async function* lines(body) {
  let rest = '';
  for await (const chunk of readAll(body.pipeThrough(new TextDecoderStream()))) {
    const parts = (rest + chunk).split('\n');
    rest = parts.pop();
    for (const part of parts) yield JSON.parse(part);
  }
}

// readAll is what iterating a stream does, where browsers can.
async function* readAll(stream) {
  const reader = stream.getReader();
  try {
    for (let r = await reader.read(); !r.done; r = await reader.read()) yield r.value;
  } finally {
    reader.cancel().catch(() => {});
  }
}

const pause = (time, signal) => new Promise((resolve) => {
  const over = new AbortController();
  const done = () => (over.abort(), clearTimeout(timer), resolve());
  const timer = setTimeout(done, time);
  signal.addEventListener('abort', done, { signal: over.signal });
  addEventListener('online', done, { signal: over.signal });
});

// ---- The frame ---------------------------------------------------------------

const main = document.getElementById('main');
let lastHeard = 0;

function connection(name) {
  const p = document.getElementById('connection');
  if (name === 'live') lastHeard = Date.now();
  const since = lastHeard ? `, as of ${clock.format(lastHeard)}` : '';
  const words = { live: 'Live', lost: `Connection lost${since}; trying again`, trouble: `The list cannot be read${since}; trying again`, '': '' }[name];
  if (p.dataset.state === name && p.textContent === words) return;
  p.dataset.state = name;
  patch(p, words ? [icon(name === 'live' ? 'in' : 'late'), el('span', {}, words)] : []);
}

let announced = 0;
function announce(words) {
  const p = document.getElementById('announce');
  p.textContent = Date.now() - announced < 2000 ? `${p.textContent}; ${words}`.slice(-300) : words;
  announced = Date.now();
}

// ask shows the form for the key, and nothing else: without a key there is no data.
function ask(problem) {
  streaming?.abort();
  sessionStorage.removeItem('key');
  key = '';
  known.all.clear();
  known.loaded = false;
  Object.assign(detail, { id: '', status: null, deliveries: null, problem: '' });
  regions.answer = null;
  connection('');
  document.getElementById('forget').hidden = true;
  document.title = 'Key · allregions';
  const input = el('input', { type: 'password', id: 'key', name: 'key', required: true, autocomplete: 'off', spellcheck: 'false', 'aria-describedby': 'key-help' });
  patch(main, [el('div', { class: 'card key', 'data-key': 'ask' },
    el('h1', {}, 'Which key?'),
    problem && el('p', { class: 'alert', role: 'alert' }, el('strong', {}, problem)),
    el('form', { onsubmit: (e) => {
      e.preventDefault();
      key = e.target.elements.key.value.trim();
      if (!key) return;
      sessionStorage.setItem('key', key);
      e.target.reset();
      route();
    } },
    el('label', { for: 'key' }, 'Key that may read'), input,
    el('p', { class: 'sub', id: 'key-help' }, 'One of the service’s READ_KEYS or WEBHOOK_KEYS. It stays in this tab until you close it, and goes to the service in a header only.'),
    el('div', { class: 'buttons' }, el('button', { class: 'primary' }, 'Show the notifications'))))]);
  document.getElementById('key').focus();
}

function fail(err) {
  connection('');
  patch(main, [el('div', { class: 'empty', 'data-key': 'failed' }, el('h1', {}, 'That cannot be shown'),
    el('p', {}, text(err.message)), el('a', { href: '/' }, 'Show all notifications'))]);
}

function go(path) {
  history.pushState(null, '', path);
  route();
}

// route shows what the URL says, from the beginning.
function route() {
  for (const a of document.querySelectorAll('nav a')) {
    const here = a.pathname === '/' ? !location.pathname.startsWith('/regions') : location.pathname.startsWith(a.pathname);
    here ? a.setAttribute('aria-current', 'page') : a.removeAttribute('aria-current');
  }
  document.getElementById('forget').hidden = !key;
  known.loaded = false;
  known.page = null;
  const id = location.pathname.match(/^\/notifications\/([^/]+)$/)?.[1] ?? '';
  Object.assign(detail, { id, status: null, deliveries: null, problem: '', said: '' });
  main.replaceChildren(el('p', { class: 'muted', 'data-key': 'loading' }, 'Loading …'));
  follow();
  if (id) loadDetail();
  if (location.pathname === '/regions') loadRegions();
}

// show shows what is known.
function show() {
  if (location.pathname === '/regions') showRegions();
  else if (detail.id) showDetail();
  else showList();
  tick();
}

// tick is what the time alone changes.
function tick() {
  for (const node of document.querySelectorAll('[data-since]')) put(node, duration(now() - node.dataset.since));
  for (const node of document.querySelectorAll('[data-deadline]')) {
    const left = node.dataset.deadline - now();
    put(node, left > 0 ? `${duration(left)} left` : `deadline passed ${duration(-left)} ago`);
    node.closest('.card')?.classList.toggle('over', left <= 0);
  }
  for (const node of document.querySelectorAll('progress[data-from]')) node.value = Math.min(1, (now() - node.dataset.from) / (node.dataset.to - node.dataset.from));
}

function put(node, words) {
  if (node.textContent !== words) node.textContent = words;
}

// ---- The list ----------------------------------------------------------------

// regionsOf are all regions of a notification, in an order that does not change.
function regionsOf(s) {
  const over = s.status === 'collecting' && now() >= ms(s.deadline);
  const cells = s.regions.map((r) => {
    const late = ms(r.receivedAt) >= ms(s.deadline);
    const offset = ms(r.receivedAt) - ms(s.startedAt);
    const word = (late ? 'late, ' : '') + (offset <= 0 ? 'first' : '+' + duration(offset));
    return { region: r.region, state: late ? 'late' : 'in', word, differs: r.digest !== undefined || r.tag !== undefined, at: r };
  });
  for (const r of s.optional ?? []) {
    const offset = ms(r.receivedAt) - ms(s.startedAt);
    cells.push({ region: r.region, state: r.receivedAt ? 'in' : 'waiting', word: 'optional, ' + (!r.receivedAt ? 'not in' : offset <= 0 ? 'first' : '+' + duration(offset)),
      differs: r.digest !== undefined || r.tag !== undefined, at: r.receivedAt && r, optional: true });
  }
  for (const region of s.missing) {
    cells.push(s.status === 'collecting' && !over ? { region, state: 'waiting', word: 'waiting' } : { region, state: 'missing', word: 'missing' });
  }
  return cells.sort((a, b) => (a.region < b.region ? -1 : 1));
}

const cell = (c) => el('li', { class: 'cell', 'data-key': c.region, 'data-state': c.state }, icon(c.state),
  el('span', {}, el('b', {}, text(c.region)), el('span', { class: 'word' }, c.word + (c.differs ? ', other digest or tag' : ''))));

const imageOf = (s) => [el('a', { class: 'name', href: `/notifications/${encodeURIComponent(s.id)}` }, text(nameOf(s))),
  el('p', { class: 'sub' }, s.action !== 'push' && [text(s.action), ' · '], text(s.registry || 'no registry named'),
    s.digest && [' · ', el('span', { class: 'code', title: s.digest }, text(shortDigest(s.digest)))]),
  s.mismatch && el('p', { class: 'sub is-mismatch status' }, icon('differs'), 'Regions disagree')];

const openCard = (s) => el('li', { class: 'card', 'data-key': s.id },
  el('div', { class: 'head' }, el('div', {}, imageOf(s)),
    el('p', {}, el('span', { 'data-since': ms(s.startedAt) }), el('span', { class: 'muted' }, ' since the push · '), el('b', { 'data-deadline': ms(s.deadline) }))),
  el('progress', { 'data-from': ms(s.startedAt), 'data-to': ms(s.deadline), max: 1, 'aria-label': 'time until the deadline' }),
  el('ul', { class: 'cells', 'aria-label': `regions, ${s.regions.length} of ${s.regions.length + s.missing.length} in` }, regionsOf(s).map(cell)));

const row = (s) => el('li', { class: 'row', 'data-key': s.id },
  el('p', { class: 'state' }, state(s.status)),
  el('div', { class: 'image' }, imageOf(s)),
  el('ul', { class: 'chips', 'aria-label': 'regions' }, regionsOf(s).map(cell)),
  el('p', { class: 'number' }, el('span', { class: 'muted' }, 'in '), duration(s.durationMs)),
  el('p', { class: 'number when muted' }, when(s.startedAt)));

// made are the nodes of statuses that have not changed.
const made = new WeakMap();
function once(make, s) {
  const over = s.status === 'collecting' && now() >= ms(s.deadline);
  const old = made.get(s);
  if (old?.over === over) return old.node;
  const node = make(s);
  made.set(s, { node, over });
  return node;
}

// use patches rows into a list, and remembers which node each became.
function use(parent, make, statuses) {
  patch(parent, statuses.map((s) => once(make, s)));
  [...parent.children].forEach((node, i) => { made.get(statuses[i]).node = node; });
}

function filterForm() {
  const f = filters();
  const field = (name, label, input, extra) => el('label', { class: extra }, label, input);
  const select = el('select', { name: 'status', onchange: (e) => e.target.form.requestSubmit() }, el('option', { value: '' }, 'all'),
    Object.entries(statusWords).map(([value, word]) => el('option', { value }, word)));
  const form = el('form', { class: 'filters', role: 'search', 'data-key': 'filters', onsubmit: (e) => {
    e.preventDefault();
    const next = filters();
    next.delete('cursor');
    for (const name of ['search', 'status', 'region']) {
      const value = e.target.elements[name].value.trim();
      value ? next.set(name, value) : next.delete(name);
    }
    go('/' + (next.size ? '?' + next : ''));
  } },
  field('search', 'Image', el('input', { name: 'search', type: 'search', placeholder: 'part of repository:tag@digest', spellcheck: 'false' }), 'search'),
  field('status', 'Status', select),
  field('region', 'Missing in region', el('input', { name: 'region', type: 'search', placeholder: 'such as westeurope', spellcheck: 'false' })),
  el('button', {}, 'Filter'));
  for (const name of ['search', 'status', 'region']) form.elements[name].value = f.get(name) ?? '';
  return form;
}

const section = (name, title, list) => el('section', { class: 'section', 'data-key': name, 'aria-labelledby': name + '-title' },
  el('h2', { id: name + '-title' }, title, el('span', { class: 'muted' })), list);

function frameOfList() {
  const frame = main.querySelector('[data-key=filters]') ? null : [
    el('h1', { class: 'unseen', 'data-key': 'title' }, 'Notifications'), filterForm(),
    section('open', 'Open', el('ul', { class: 'cards' })), section('done', 'Concluded', el('ul', { class: 'rows' })), el('div', { 'data-key': 'empty' }), el('nav', { class: 'pager', 'data-key': 'pager', 'aria-label': 'Pages' })];
  if (frame) patch(main, frame);
}

function showList() {
  if (!known.loaded) return;
  frameOfList();
  const f = filters();
  const found = [...known.all.values()].filter((s) => matches(s, f) && (!known.page || known.page.has(s.id))).sort((a, b) => ms(b.startedAt) - ms(a.startedAt));
  const open = found.filter((s) => s.status === 'collecting');
  const done = found.filter((s) => s.status !== 'collecting');
  const part = (name, make, list) => {
    const node = main.querySelector(`[data-key=${name}]`);
    node.hidden = list.length === 0;
    put(node.querySelector('h2 .muted'), String(list.length));
    use(node.querySelector('ul'), make, list);
  };
  part('open', openCard, open);
  part('done', row, done);
  patch(main.querySelector('[data-key=empty]'), found.length ? [] : [emptyList(f)]);
  const older = new URLSearchParams(f);
  older.set('cursor', known.cursor);
  const newest = new URLSearchParams(f);
  newest.delete('cursor');
  patch(main.querySelector('[data-key=pager]'), [
    f.get('cursor') && el('a', { href: '/' + (newest.size ? '?' + newest : '') }, '← Newest'),
    known.cursor && el('a', { href: '/?' + older }, 'Older →')].filter(Boolean));
  document.title = (open.length ? `${open.length} open · ` : '') + 'allregions';
}

function emptyList(f) {
  if (f.size === 0) {
    return el('div', { class: 'empty' }, el('h2', {}, 'No notification yet'),
      el('p', {}, 'Push an image to the registry. It shows here as soon as the first region’s webhook comes, without a reload.'),
      el('p', {}, 'If nothing comes within a minute, look at ', el('a', { href: '/regions' }, 'the regions'), ': they show whether each webhook is registered and what ACR was answered.'));
  }
  return el('div', { class: 'empty' }, el('h2', {}, 'Nothing here fits the filters'),
    el('p', {}, known.cursor ? 'The search has looked at one day. ' : 'All that is listed was searched. ', 'An image fits if its repository:tag@digest contains the text.'),
    el('a', { href: '/' }, 'Show all notifications'));
}

// ---- One notification --------------------------------------------------------

const detail = { id: '', status: null, deliveries: null, problem: '', said: '' };

async function loadDetail() {
  const { id } = detail;
  const path = `/notifications/${id}`;
  const get = async (p) => (await call(p)).json();
  const [status, deliveries] = await Promise.allSettled([get(path), get(path + '/deliveries')]);
  if (detail.id !== id) return;
  if (status.reason instanceof Refused) return; // the stream asks for a key
  detail.problem = status.status === 'fulfilled' ? '' : status.reason.status === 404 ? 'gone' : status.reason.message;
  if (status.status === 'fulfilled') detail.status = status.value;
  if (deliveries.status === 'fulfilled') detail.deliveries = deliveries.value.deliveries;
  show();
}

function showDetail() {
  const { status: s, problem } = detail;
  if (!s) {
    if (problem) patch(main, [noDetail(problem)]);
    return;
  }
  document.title = `${visible(nameOf(s))} · allregions`;
  const fact = (name, value, wide) => value !== '' && value !== undefined && el('div', { class: wide ? 'wide' : undefined }, el('dt', {}, name), el('dd', {}, value));
  patch(main, [
    el('div', { class: 'section', 'data-key': 'head' },
      el('p', {}, el('a', { href: '/' }, '← Notifications')),
      el('div', { class: 'head' }, el('h1', {}, text(nameOf(s))), state(s.status)),
      problem && el('p', { class: 'alert' }, el('strong', {}, 'This may be old: '), text(problem)),
      s.mismatch && mismatch(s)),
    el('div', { class: 'card', 'data-key': 'facts' }, el('dl', { class: 'facts' },
      fact('Registry', text(s.registry || '–')), fact('Action', text(s.action)), fact('First event', when(s.startedAt)), fact('Deadline', [when(s.deadline), s.status === 'collecting' && [' · ', el('b', { 'data-deadline': ms(s.deadline) })]]),
      s.concludedAt && fact('Concluded', [when(s.concludedAt), ` · after ${duration(s.durationMs)}`]),
      s.size > 0 && fact('Size of the manifest', `${s.size.toLocaleString()} bytes`),
      fact('Digest', el('code', {}, text(s.digest || '–')), true), fact('Media type', el('code', {}, text(s.mediaType || '–')), true), fact('Notification', el('code', {}, s.id), true))),
    el('section', { class: 'section', 'data-key': 'timeline', 'aria-labelledby': 'timeline-title' }, el('h2', { id: 'timeline-title' }, 'Timeline'),
      el('ol', { class: 'card timeline' }, timeline(s))),
    el('section', { class: 'section', 'data-key': 'deliveries', 'aria-labelledby': 'deliveries-title' }, el('h2', { id: 'deliveries-title' }, 'Deliveries'), deliveries(s))]);
}

const noDetail = (problem) => el('div', { class: 'empty', 'data-key': 'none' },
  el('h1', {}, problem === 'gone' ? 'There is no such notification' : 'The notification cannot be shown'),
  el('p', {}, problem === 'gone' ? 'It may have expired, or the address is incomplete.' : [text(problem), '. The page tries again when something changes; reload it to try now.']),
  el('a', { href: '/' }, 'Show all notifications'));

function mismatch(s) {
  const others = s.regions.concat(s.optional ?? []).filter((r) => r.digest !== undefined || r.tag !== undefined);
  return el('div', { class: 'alert' }, el('strong', {}, 'The regions disagree about the image.'),
    el('p', {}, 'The first event counts: ', el('code', {}, text(s.digest)), s.tag && [' with the tag ', el('code', {}, text(s.tag))]),
    others.map((r) => el('p', {}, text(r.region), ' reported ', el('code', {}, text(r.digest ?? s.digest)), r.tag !== undefined && [' with the tag ', el('code', {}, text(r.tag || '(none)'))])));
}

// timeline is what happened, in order, and then what is missing.
function timeline(s) {
  const begin = ms(s.startedAt);
  const deadline = ms(s.deadline);
  const cells = regionsOf(s);
  const last = Math.max(deadline, ...cells.filter((c) => c.at).map((c) => ms(c.at.receivedAt)), s.concludedAt ? ms(s.concludedAt) : 0);
  const x = (at) => (100 * (at - begin)) / (last - begin);
  const items = cells.filter((c) => c.at).map((c) => {
    const at = ms(c.at.receivedAt);
    const happened = c.at.eventTime && ['ACR dates it ', when(c.at.eventTime), '. '];
    const differs = c.differs && [' Reported ', el('code', {}, text(c.at.digest ?? c.at.tag)), ', not what the first region did.'];
    return { at, node: item(c.region, at, c.state, text(c.region), bar([['fill' + (c.state === 'late' ? ' late' : ''), 0, x(at)], ['mark', x(deadline) - 0.4, 0.4]]),
      [c.optional && 'Optional. ', c.state === 'late' ? 'Late, ' : 'In, ', ways[c.at.via ?? ''] ?? text(c.at.via), ', ', when(c.at.receivedAt), '. ', happened, differs]) };
  });
  const point = (name, at, shape, title, note) => items.push({ at, node: item(name, at, shape, el('b', {}, title), el('span'), note) });
  const absent = s.regions.filter((r) => ms(r.receivedAt) >= deadline).map((r) => r.region).concat(s.missing);
  if (s.status === 'collecting' ? now() >= deadline : s.status !== 'replicated') {
    point('.deadline', deadline, 'point', 'Deadline', ['Not in by ', when(s.deadline), ': ', absent.map((r, i) => [i > 0 && ', ', text(r)])]);
  }
  if (s.status !== 'collecting') point('.outcome', ms(s.concludedAt), s.status === 'timedOut' ? 'missing' : 'in', statusWords[s.status], [when(s.concludedAt), ', ', said[s.status]]);
  items.sort((a, b) => a.at - b.at);
  const missing = cells.filter((c) => !c.at).map((c) => item(c.region, NaN, c.state, text(c.region), bar([['mark', x(deadline) - 0.4, 0.4]]), [c.optional ? 'Optional, not in' : c.state === 'waiting' ? 'Waiting' : 'Missing', s.replicas?.[c.region] && ['. The registry says of its replica: ', text(s.replicas[c.region])]]));
  return [...items.map((i) => i.node), ...missing];

  function item(name, at, shape, title, graph, note) {
    return el('li', { 'data-key': name }, el('span', { class: 'offset' }, Number.isNaN(at) ? '–' : at <= begin ? 'first' : '+' + duration(at - begin)),
      el('span', shape === 'point' ? { class: 'point' } : { 'data-state': shape }, icon(shape)), el('span', { class: 'what' }, title), graph, el('p', { class: 'note muted' }, note));
  }
}

// bar draws parts: class, begin and width, of 100.
const bar = (parts, label) => el('svg', { class: 'bar', viewBox: '0 0 100 10', preserveAspectRatio: 'none', ...(label ? { role: 'img', 'aria-label': label } : { 'aria-hidden': 'true' }) },
  parts.map(([name, at, width]) => el('rect', { class: name, x: at.toFixed(2), width: Math.max(0.4, width).toFixed(2), height: 10 })));

function deliveries(s) {
  const list = detail.deliveries;
  if (!list) return el('p', { class: 'muted' }, 'Not known at the moment.');
  if (list.length === 0) {
    return el('p', { class: 'muted' }, s.status === 'collecting' ? 'There is no outcome to deliver yet.' : 'No target is to get this outcome. Targets are in the setting NOTIFY_TARGETS.');
  }
  const newest = `${s.id}/${s.status}`;
  return el('ul', { class: 'cards' }, list.map((d) => el('li', { class: 'card', 'data-key': d.event + d.target },
    el('div', { class: 'head' }, el('h3', {}, text(d.target), el('span', { class: 'muted' }, ` · ${d.event.split('/')[1]}`)), state(d.status)),
    d.error && el('p', { class: 'is-failed' }, text(d.error)),
    el('ol', { class: 'plain', 'aria-label': 'attempts' }, d.attempts.map((a) => el('li', {}, when(a.at), ' · ', a.error ? [el('span', { class: 'is-failed' }, 'failed: '), text(a.error)] : `delivered${a.status ? `, HTTP ${a.status}` : ''}`))),
    d.nextAttempt && el('p', { class: 'muted' }, d.attemptsMade ? 'Next attempt ' : 'First attempt ', when(d.nextAttempt)),
    d.event === newest && el('div', { class: 'buttons' }, el('button', { type: 'button', onclick: () => again(d.target), 'aria-label': `Send again to ${visible(d.target)}` }, 'Send again')))));
}

let postKey = ''; // a key that may post, until the page is left

async function again(target) {
  const { id } = detail;
  try {
    await call(`/notifications/${id}/deliveries/${encodeURIComponent(target)}`, { method: 'POST', as: postKey || key });
    announce(`Sent again to ${visible(target)}`);
  } catch (err) {
    if (err instanceof Refused) return askPost(target, postKey ? 'This key may not post.' : '');
    announce(`Not sent: ${err.message}`);
    return tell('Not sent again', err.message);
  }
  setTimeout(() => detail.id === id && loadDetail(), 500);
}

const dialog = document.getElementById('dialog');
const close = () => dialog.close();

function tell(title, words) {
  patch(dialog, [el('h2', { id: 'dialog-title' }, title), el('p', {}, text(words)), el('div', { class: 'buttons' }, el('button', { type: 'button', onclick: close }, 'Close'))]);
  if (!dialog.open) dialog.showModal();
}

function askPost(target, problem) {
  postKey = '';
  dialog.replaceChildren(el('form', { onsubmit: (e) => {
    e.preventDefault();
    postKey = e.target.elements.post.value.trim();
    close();
    if (postKey) again(target);
  } },
  el('h2', { id: 'dialog-title' }, 'Sending again needs a webhook key'),
  problem && el('p', { class: 'alert', role: 'alert' }, el('strong', {}, problem)),
  el('p', { class: 'sub' }, 'Your key may only read. Give one of WEBHOOK_KEYS; the page forgets it when you leave or reload it.'),
  el('label', { for: 'post' }, 'Webhook key'), el('input', { type: 'password', id: 'post', required: true, autocomplete: 'off' }),
  el('div', { class: 'buttons' }, el('button', { type: 'button', onclick: close }, 'Cancel'), el('button', { class: 'primary' }, 'Send again'))));
  if (!dialog.open) dialog.showModal();
}

// ---- The regions -------------------------------------------------------------

const regions = { answer: null, problem: '' };

async function loadRegions() {
  try {
    regions.answer = await (await call('/regions')).json();
    regions.problem = '';
  } catch (err) {
    if (err instanceof Refused) return; // the stream asks for a key
    regions.problem = err.message;
  }
  if (location.pathname === '/regions') show();
}

function showRegions() {
  document.title = 'Regions · allregions';
  const { answer, problem } = regions;
  if (!answer && !problem) return;
  const dead = answer?.deadLetters;
  patch(main, [
    el('h1', { 'data-key': 'title' }, 'Regions'),
    problem && el('p', { class: 'alert', 'data-key': 'problem' }, el('strong', {}, 'The regions cannot be read now.'), text(problem)),
    dead?.count > 0 && el('div', { class: 'alert', 'data-key': 'dead' }, el('strong', {}, `${dead.count} events could not be delivered to their notifications.`),
      dead.last && el('p', {}, 'The last one: ', text(dead.last.event), ', ', when(dead.last.at), ', ', text(dead.last.reason))),
    (answer?.registries ?? []).map(registry)].flat().filter(Boolean));
}

function registry(r, i) {
  const slowest = Math.max(1, ...r.regions.map((x) => x.latencyMs?.p95 ?? 0));
  const title = `registry-${i}`;
  return el('section', { class: 'section', 'data-key': title, 'aria-labelledby': title },
    el('h2', { id: title }, text(r.loginServer || r.name || 'The expected regions'), el('span', { class: 'muted' }, r.source === 'azure' ? ['read from Azure ', r.read?.at && when(r.read.at)] : 'from the setting WEBHOOK_REGIONS')),
    r.read?.error && el('p', { class: 'alert' }, el('strong', {}, 'Azure could not be asked.'), text(r.read.error)),
    r.ids?.disagree && el('div', { class: 'alert' }, el('strong', {}, 'Webhooks of one push carry different ids. Notifications cannot be complete.'),
      el('p', {}, (r.ids.disagree.events ?? []).map((e, i) => [i > 0 && ', ', text(e.region), ': ', el('code', {}, text(e.id))]))),
    r.sweep?.error && el('p', { class: 'alert' }, el('strong', {}, 'The event logs of ACR could not be read.'), text(r.sweep.error)),
    el('ul', { class: 'cards' }, r.regions.map((x) => regionCard(x, slowest))),
    r.sweep?.enabled && el('p', { class: 'muted' }, `Found in the event logs of ACR, because the webhook did not come: ${r.sweep.found ?? 0}`, r.sweep.at && [' · last look ', when(r.sweep.at)]));
}

function regionCard(r, slowest) {
  const l = r.latencyMs;
  const w = r.webhook;
  const [shape, word] = !r.expected && r.optional ? ['waiting', 'optional, nobody waits for it'] : !r.expected ? ['waiting', 'not expected'] : w && !w.registered ? ['missing', 'webhook is not as it must be'] : r.missed > 0 ? ['late', `missed ${r.missed} in a day`] : l ? ['in', 'all came in time'] : ['waiting', 'no event in a day'];
  const latency = l ? `median ${duration(l.median)}, 95 % within ${duration(l.p95)}, ${l.count} events` : 'no event in the last day';
  const fact = (name, ...value) => el('div', {}, el('dt', {}, name), el('dd', {}, value));
  return el('li', { class: 'card', 'data-key': r.region },
    el('div', { class: 'head' }, el('h3', {}, text(r.region)), el('p', { class: 'cell', 'data-state': shape }, icon(shape), el('span', { class: 'word' }, word))),
    el('div', {}, bar(l ? [['soft', 0, (100 * l.p95) / slowest], ['strong', 0, (100 * l.median) / slowest]] : [], `Latency of the last day: ${latency}`), el('p', { class: 'sub' }, 'After the first region, last day: ', latency)),
    el('dl', { class: 'facts' },
      fact('Missed in the last day', String(r.missed ?? 0)),
      fact('Last event', r.lastEvent ? when(r.lastEvent) : 'none'),
      r.replica && fact('Replica', text(r.replica)),
      fact('Webhook', w ? [w.registered ? 'registered' : 'not as it must be', w.checkedAt && [' · checked ', when(w.checkedAt)]] : 'not known to the service'),
      w?.lastAnswer && fact('Last answer that ACR had', text(w.lastAnswer.status), ' · ', when(w.lastAnswer.at)),
      w?.lastPing && fact('Last ping', w.lastPing.answered ? 'answered' : 'not answered', ' · ', text(w.lastPing.status), ' · ', when(w.lastPing.at))),
    w?.problem && el('p', { class: 'alert' }, text(w.problem)));
}

// ---- The beginning -----------------------------------------------------------

const theme = document.getElementById('theme');
theme.value = localStorage.getItem('theme') ?? '';
theme.onchange = () => {
  theme.value ? localStorage.setItem('theme', theme.value) : localStorage.removeItem('theme');
  document.documentElement.dataset.theme = theme.value;
};
theme.onchange();

document.getElementById('forget').onclick = () => ask('');
addEventListener('popstate', route);
// A page that the browser keeps for the way back would keep its connection, too, of which there are few.
addEventListener('pagehide', () => streaming?.abort());
addEventListener('pageshow', (e) => e.persisted && route());
document.addEventListener('click', (e) => {
  const a = e.target.closest?.('a[href]');
  if (!a || e.defaultPrevented || e.button || e.ctrlKey || e.metaKey || e.shiftKey || e.altKey || a.origin !== location.origin || a.hash) return;
  e.preventDefault();
  go(a.pathname + a.search);
  scrollTo(0, 0);
  main.focus({ preventScroll: true });
});

setInterval(() => {
  if (document.hidden) return;
  if (known.loaded && !detail.id && location.pathname === '/' && [...known.all.values()].some((s) => s.status === 'collecting' && made.get(s)?.over !== now() >= ms(s.deadline))) show();
  tick();
}, 1000);
setInterval(() => {
  if (document.hidden || !known.loaded) return;
  if (detail.id) loadDetail();
  else if (location.pathname === '/regions') loadRegions();
}, 5000);

route();
