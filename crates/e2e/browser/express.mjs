import express from "express";

const app = express();
app.set("trust proxy", "loopback");
app.use(express.urlencoded());
app.get("/", (_request, response) => {
  response.send(`<form method="post" action="/name"><input name="name"><button>Go</button></form>`);
});
app.post("/name", (request, response) => {
  response.cookie("name", request.body.name, { secure: true, httpOnly: true, sameSite: "strict" });
  response.redirect("/greeting");
});
app.get("/greeting", (request, response) => {
  const name = /name=([^;]*)/.exec(request.get("cookie") ?? "")?.[1] ?? "nobody";
  const origin = `${request.protocol}://${request.get("host")}`;
  response.send(`<p>hello, ${decodeURIComponent(name)}</p><p>from ${origin}</p>`);
});
app.listen(8001, "127.0.0.1");
