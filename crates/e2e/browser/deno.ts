const PAGE = `<p id="echoes"></p><p id="events"></p><script type="module">
const echoes = [];
const socket = new WebSocket(location.href.replace("https:", "wss:") + "socket");
socket.onopen = () => [1, 2, 3].forEach((number) => socket.send(String(number)));
socket.onmessage = ({ data }) => document.querySelector("#echoes").textContent = (echoes.push(data), echoes.join(", "));
const events = [];
const source = new EventSource("/events");
source.onmessage = ({ data }) => document.querySelector("#events").textContent = (events.push(data), events.join(", "));
</script>`;

Deno.serve({ port: 8002, hostname: "127.0.0.1" }, (request) => {
  const { pathname } = new URL(request.url);
  if (pathname === "/socket") {
    const { socket, response } = Deno.upgradeWebSocket(request);
    socket.onmessage = ({ data }) => socket.send(`echo of ${data}`);
    return response;
  }
  if (pathname === "/events") {
    let number = 0;
    const body = new ReadableStream({
      start(controller) {
        const send = () => {
          number += 1;
          controller.enqueue(new TextEncoder().encode(`data: event ${number}\n\n`));
          if (number < 3) setTimeout(send, 100);
        };
        send();
      },
    });
    return new Response(body, { headers: { "content-type": "text/event-stream" } });
  }
  return new Response(PAGE, { headers: { "content-type": "text/html" } });
});
