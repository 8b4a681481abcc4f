"use strict";
// Runs first: whatever goes wrong later is written on the page itself, where a test can read it.
(function () {
  const root = document.documentElement;
  const errors = [];
  function note(text) {
    errors.push(String(text));
    root.dataset.errors = JSON.stringify(errors);
  }
  root.dataset.errors = "[]";
  window.addEventListener("error", (event) => note(event.message));
  window.addEventListener("unhandledrejection", (event) => note(event.reason));
  document.addEventListener("securitypolicyviolation", (event) =>
    note(`blocked ${event.violatedDirective} ${event.blockedURI}`)
  );
})();
