// Says that an answer is on its way; the form works without.
"use strict";

document.getElementById("ask-form").addEventListener("submit", () => {
  document.getElementById("waiting").hidden = false;
  document.querySelector("#ask-form button").disabled = true;
});
