// What every page does with an answer that is none: to the login where the session is over, else its reason in words.
"use strict";

// The address holds what is shown, so the login leads back to it.
function logIn() {
  location.href = `/login?next=${encodeURIComponent(location.pathname + location.search)}`;
}

// JSON of this service, or null where none came.
async function figures(path) {
  try {
    const answer = await fetch(path, { headers: { Accept: "application/json" } });
    if (answer.status === 401) logIn();
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}

// Why htmx has nothing to show: as the service says, or whatever stands before it.
function reasonOf({ response, text }) {
  if (!response) return "no answer came";
  if (response.status === 401) return "the session is over; log in again";
  try {
    return JSON.parse(text).error.message;
  } catch {
    return `the answer was ${response.status}`;
  }
}
