--- run.lua: runs Lua test files: lua5.4 run.lua ROOT FILE...
---
--- A test file returns a function that gets `t`. t.test(name, fn) runs a test at once and records
--- it; t.equal and t.check fail it; t.skip(reason) marks the whole file as skipped. Exit status: 0
--- passed, 1 failed, 77 everything skipped.
local root = assert(arg[1], "usage: run.lua ROOT FILE...")
package.path = root .. "/lua/?.lua;" .. root .. "/lua/?/init.lua;" .. root .. "/tests/lua/?.lua"

io.stdout:setvbuf "line"

local passed, failed, skipped = 0, 0, 0
local t = { root = root, data = os.getenv "QH_TEST_DATA" or root .. "/../shared/data" }

local function show(v)
  if type(v) == "string" then return ("%q"):format(v):gsub("\\\n", "\\n") end
  if type(v) ~= "table" then return tostring(v) end
  local parts, n = {}, 0
  for i, item in ipairs(v) do parts[i], n = show(item), i end
  local names = {}
  for k in pairs(v) do
    if not (math.type(k) == "integer" and k <= n and k > 0) then names[#names + 1] = k end
  end
  table.sort(names, function(a, b) return tostring(a) < tostring(b) end)
  for _, k in ipairs(names) do parts[#parts + 1] = tostring(k) .. "=" .. show(v[k]) end
  return "{" .. table.concat(parts, ", ") .. "}"
end
t.show = show

local function same(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then return a == b and math.type(a) == math.type(b) end
  for k, v in pairs(a) do
    if not same(v, b[k]) then return false end
  end
  for k in pairs(b) do
    if a[k] == nil then return false end
  end
  return true
end

-- Long strings that differ, from shortly before the first difference.
local function excerpt(got, expected)
  local at = 1
  while got:byte(at) == expected:byte(at) do at = at + 1 end
  local from = math.max(at - 60, 1)
  return ("differs at byte %d\n      got      ...%s\n      expected ...%s"):format(at,
    show(got:sub(from, at + 100)), show(expected:sub(from, at + 100)))
end

--- Deep equality.
function t.equal(got, expected, what)
  if not same(got, expected) then
    if type(got) == "string" and type(expected) == "string" and #got + #expected > 400 then
      error((what and what .. ": " or "") .. excerpt(got, expected), 2)
    end
    error(("%sgot      %s\n      expected %s"):format(what and what .. ": " or "", show(got), show(expected)), 2)
  end
end

function t.check(ok, message)
  if not ok then error(message or "check failed", 2) end
  return ok
end

function t.test(name, fn)
  local ok, err = xpcall(fn, function(e) return type(e) == "string" and e or show(e) end)
  if ok then
    passed = passed + 1
  else
    failed = failed + 1
    io.write("FAIL  ", name, "\n      ", err, "\n")
  end
end

function t.skip(reason)
  skipped = skipped + 1
  io.write("SKIP  ", reason, "\n")
end

--- The bytes of a file, or nil.
function t.read(path)
  local f = io.open(path, "rb")
  if not f then return nil end
  local s = f:read "a"
  f:close()
  return s
end

for i = 2, #arg do
  local chunk = assert(loadfile(arg[i]))
  chunk()(t)
end
io.write(("%d passed, %d failed, %d skipped\n"):format(passed, failed, skipped))
os.exit(failed > 0 and 1 or passed == 0 and skipped > 0 and 77 or 0)
