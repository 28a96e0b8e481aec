--- The chat templates of public models against what Python's Jinja2 renders.
local jinja = require "qhost.jinja"
local json = require "json"

-- The clock of the recordings: 2 January 2025, 12:00.
local NOW = 1735819200

-- Rows in which Python's Markup shows: these templates write `x|tojson|safe + "..."`, and in Python
-- adding to a safe string escapes what is added, so JSON quotes come out as &#34;. Here `safe`
-- marks nothing. The rows must agree once the entities of the recording are read back.
local MARKUP = {}
for name in ([[
  ik_llama.cpp__meetkai-functionary-medium-v3.1.jinja
  mistral-common__v2.jinja mistral-common__v2_spm.jinja
  mistral-common__v3.jinja mistral-common__v3_spm.jinja
  mistral-common__v3_image.jinja mistral-common__v3_image_spm.jinja
  mistral-common__v7.jinja mistral-common__v7_audio.jinja
  mistral-common__v7_image.jinja mistral-common__v7_image_spm.jinja
]]):gmatch "%S+" do
  MARKUP[name .. " / tool"] = true
end

local ENTITIES = { ["&#34;"] = '"', ["&#39;"] = "'", ["&lt;"] = "<", ["&gt;"] = ">", ["&amp;"] = "&" }

return function(t)
  local folder = t.data .. "/templates/"
  local goldens = t.read(folder .. "goldens.jsonl")
  if not goldens then return t.skip("no templates in " .. folder) end
  local contexts = assert(json.decode(t.read(folder .. "contexts.json")))

  local rows, errors, exceptions = 0, 0, 0
  for line in goldens:gmatch "[^\n]+" do
    local row = assert(json.decode(line))
    local name = row.template .. " / " .. row.context
    rows = rows + 1
    t.test(name, function()
      local template = assert(jinja.compile(t.read(folder .. row.template), { name = row.template }))
      local text, err, kind = template:render_text(contexts[row.context], { now = NOW })
      if row.error then
        errors = errors + 1
        t.check(not text, "rendered where Python refuses with " .. row.error)
        t.check(kind ~= "internal" and kind ~= "limit", err)
      else
        t.check(text, err)
        local expected = row.text
        if MARKUP[name] then
          exceptions = exceptions + 1
          expected = expected:gsub("&[#%w]+;", ENTITIES)
        end
        t.equal(text, expected)
        -- The segments are the same text.
        local parts = {}
        for i, segment in ipairs(assert(template:render(contexts[row.context], { now = NOW }))) do
          parts[i] = segment.text
        end
        t.equal(table.concat(parts), expected)
      end
    end)
  end
  t.test("all rows were read", function() t.equal({ rows, errors, exceptions }, { 201, 26, 11 }) end)
end
