// Browsers start no workers for pages that are opened as files. There the search runs in a hidden frame, which is
// what the theme asks for where it finds `IFrameWorker`.
if (location.protocol === "file:") {
  window.Worker = window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      const begin = () => {
        const frame = document.createElement("iframe");
        frame.hidden = true;
        document.body.append(frame);
        const inside = (this.inside = frame.contentWindow);
        inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
        inside.importScripts = (...urls) => Promise.all(urls.map((each) => load(inside, each)));
        load(inside, new URL(url, location).href).then(() => {
          this.ready = true;
          this.waiting.forEach((data) => this.deliver(data));
        });
      };
      if (document.body) begin();
      else addEventListener("DOMContentLoaded", begin);
    }

    postMessage(data) {
      if (this.ready) this.deliver(data);
      else this.waiting.push(data);
    }

    deliver(data) {
      this.inside.dispatchEvent(new this.inside.MessageEvent("message", { data }));
    }

    terminate() {}
  };

  const load = (inside, url) =>
    new Promise((done, failed) => {
      const script = inside.document.createElement("script");
      script.onload = done;
      script.onerror = failed;
      script.src = url;
      inside.document.body.append(script);
    });
}
