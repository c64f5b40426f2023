"use strict";
// Asks the server of this page now and then whether records are new, and loads the page again; the view is in the hash.
(() => {
  let last = null;
  setInterval(async () => {
    try {
      const state = await (await fetch("state", { cache: "no-store" })).text();
      if (last !== null && state !== last) location.reload();
      last = state;
    } catch { /* the server is gone: the page stays as it is */ }
  }, 2000);
})();
