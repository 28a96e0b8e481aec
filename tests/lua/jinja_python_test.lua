--- Small templates, one for each construct, against what Python's Jinja2 renders
--- (data/jinja_cases.jsonl, written by scripts/gen-jinja-cases).
local jinja = require "qhost.jinja"
local json = require "json"

local NOW = 1735819445          -- 2 January 2025, 12:04:05

-- Templates that differ, with the reason.
local DIFFERENT = {}

return function(t)
  local folder = t.root .. "/tests/lua/data/"
  local vars = assert(json.decode(t.read(folder .. "jinja_vars.json")))
  local n = 0
  for line in t.read(folder .. "jinja_cases.jsonl"):gmatch "[^\n]+" do
    local row = assert(json.decode(line))
    n = n + 1
    t.test(row.template, function()
      local template, err, kind = jinja.compile(row.template)
      local text
      if template then text, err, kind = template:render_text(vars, { now = NOW }) end
      if kind == "internal" then error(err, 0) end
      if DIFFERENT[row.template] then
        t.check(text ~= row.text, "no longer differs: take it off the list")
      elseif row.error then
        t.check(not text, ("rendered %s where Python refuses with %s"):format(t.show(text), row.error))
      else
        t.check(text, err)
        t.equal(text, row.text)
      end
    end)
  end
  t.test("the cases were read", function() t.check(n > 300) end)
end
