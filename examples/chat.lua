-- chat.lua: a chat in the browser; the words appear as the model writes them.
--   qhost serve examples/chat.lua          then open http://127.0.0.1:8080
local qh = require "qhost"

local t = qh.schema
local llm = qh.model(qh.env("MODEL", "smollm2-135m"))
local app = qh.app()

-- The browser keeps the conversation and sends all of it each time; what the model has read before is found
-- in its cache.
local chat = t.object { { "messages", t.messages { max = 200 } } }

app:post("/chat", { max_body = 1 << 20 }, function(req, res)
  local messages = req:json(chat).messages
  return res:stream(llm:stream { messages = messages, max_tokens = 500, temperature = 0.7 }, { as = "text" })
end)

local PAGE = [[
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>qhost chat</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; max-width: 44rem; margin: 2rem auto; padding: 0 1rem; }
  .user, .assistant { white-space: pre-wrap; padding: .5rem .8rem; border-radius: .6rem; margin: .5rem 0; }
  .user { background: #e8eefc; margin-left: 4rem; }
  .assistant { background: #f3f3f3; margin-right: 4rem; }
  form { display: flex; gap: .5rem; position: sticky; bottom: 1rem; }
  input { flex: 1; font: inherit; padding: .5rem; }
</style>
<main id="log"></main>
<form><input autofocus autocomplete="off" placeholder="Say something"><button>Send</button></form>
<script>
  const messages = [], log = document.querySelector("#log"), input = document.querySelector("input")
  function show(role) {
    const div = log.appendChild(document.createElement("div"))
    div.className = role
    return div
  }
  async function send(text) {
    messages.push({ role: "user", content: text })
    show("user").textContent = text
    const div = show("assistant"), answer = { role: "assistant", content: "" }
    const reply = await fetch("chat", { method: "POST", body: JSON.stringify({ messages }) })
    if (!reply.ok) { div.textContent = (await reply.json()).error.message; messages.pop(); return }
    const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader()
    for (let r; !(r = await reader.read()).done;) div.textContent = answer.content += r.value
    messages.push(answer)
  }
  document.querySelector("form").onsubmit = async event => {
    event.preventDefault()
    const text = input.value.trim()
    input.value = ""
    if (text) await send(text)
  }
</script>
]]

app:get("/", function(_, res) return res:html(PAGE) end)

return app
