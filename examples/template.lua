-- template.lua: a prompt of one's own, in place of the template that came with the model.
--   qhost serve examples/template.lua
--   curl http://127.0.0.1:8080/v1/chat/completions -H 'content-type: application/json' \
--     -d '{"model": "interview", "messages": [{"role": "user", "content": "What is a prime number?"}]}'
--   curl http://127.0.0.1:8080/prompt -d '{"messages": [{"role": "user", "content": "Hello"}]}'
local qh = require "qhost"

local t = qh.schema
local llm = qh.model(qh.env("MODEL", "smollm2-135m"))
local app = qh.app()

-- A conversation as a printed interview: base models know that form, too. What users say goes through
-- out:text, where nothing becomes a special token, so nobody can end a turn from inside a message.
local NAMES = { user = "Q", assistant = "A" }
local interview = qh.template {
  name = "interview",
  stop = { "\nQ:", "\n\n" },
  render = function(out, conv)
    if conv.bos_token ~= "" then out:special(conv.bos_token) end
    for _, m in ipairs(conv.messages) do
      if NAMES[m.role] then
        out:text(NAMES[m.role] .. ": " .. m.content:gsub("%s+", " ") .. "\n")
      else
        out:text("(" .. m.content .. ")\n\n")
      end
    end
    if conv.add_generation_prompt then out:text "A:" end
  end,
}

local talk = llm:with { as = "interview", template = interview, defaults = { max_tokens = 120, temperature = 0.3 } }
app:openai { models = { llm, talk } }

-- What the model gets to read, for the one who writes templates.
app:post("/prompt", function(req, res)
  local segments, message = talk:render { messages = req:json(t.object { { "messages", t.messages() } }).messages }
  if not segments then qh.abort(400, "bad_messages", { message = message }) end
  local parts = {}
  for i, segment in ipairs(segments) do parts[i] = segment.text end
  return res:text(table.concat(parts))
end)

return app
