// The one thing that pages cannot do without a script: ask an authenticator.
"use strict";

(() => {
  const bytes = (text) => {
    const plain = text.replace(/-/g, "+").replace(/_/g, "/");
    return Uint8Array.from(atob(plain), (letter) => letter.charCodeAt(0));
  };
  const text = (buffer) =>
    btoa(String.fromCharCode(...new Uint8Array(buffer)))
      .replace(/\+/g, "-").replace(/\//g, "_").replace(/=+$/, "");
  const named = (list) => (list || []).map((one) => ({ ...one, id: bytes(one.id) }));

  const answers = {
    async create(options) {
      const made = await navigator.credentials.create({ publicKey: {
        ...options,
        challenge: bytes(options.challenge),
        user: { ...options.user, id: bytes(options.user.id) },
        excludeCredentials: named(options.excludeCredentials),
      } });
      return {
        clientDataJSON: text(made.response.clientDataJSON),
        attestationObject: text(made.response.attestationObject),
        credential: made,
      };
    },
    async get(options) {
      const made = await navigator.credentials.get({ publicKey: {
        ...options,
        challenge: bytes(options.challenge),
        allowCredentials: named(options.allowCredentials),
      } });
      return {
        clientDataJSON: text(made.response.clientDataJSON),
        authenticatorData: text(made.response.authenticatorData),
        signature: text(made.response.signature),
        userHandle: made.response.userHandle ? text(made.response.userHandle) : null,
        credential: made,
      };
    },
  };

  const post = async (address, document) => {
    const answer = await fetch(address, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(document),
      credentials: "same-origin",
    });
    const told = await answer.json();
    if (!answer.ok) throw new Error(`${told.message || told.detail} ${told.hint || ""}`);
    return told;
  };

  const ask = async (button) => {
    const form = button.closest("form");
    const left = (button.dataset.without || "").split(" ");
    const fields = Object.fromEntries(
      [...new FormData(form)].filter(([name]) => !left.includes(name)));
    const options = await post(`${button.dataset.base}/options`, fields);
    const { credential, ...response } = await answers[button.dataset.passkey](options);
    const id = text(credential.rawId);
    const told = await post(button.dataset.base, {
      ...fields,
      credential: { id, rawId: id, type: credential.type, response },
    });
    if (told.codes && told.codes.length) {
      const list = form.querySelector("[data-codes]");
      list.replaceChildren(...told.codes.map((code) => {
        const item = document.createElement("li");
        item.textContent = code;
        return item;
      }));
      list.hidden = false;
    } else if (button.dataset.then === "submit") {
      form.querySelector("#code").required = false;
      form.submit();
    } else {
      window.location.assign(told.next);
    }
  };

  if (!window.PublicKeyCredential) return;
  document.querySelectorAll("[data-needs-passkeys]").forEach((one) => { one.hidden = false; });
  document.querySelectorAll("[data-passkey]").forEach((button) => {
    button.addEventListener("click", async () => {
      const told = button.closest("form").querySelector("[data-told]");
      told.hidden = true;
      button.disabled = true;
      try {
        await ask(button);
      } catch (error) {
        told.textContent = error.message;
        told.hidden = false;
      } finally {
        button.disabled = false;
      }
    });
  });
})();
