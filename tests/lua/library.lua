--- library.lua: runs tests inside a VM of qhost: called with (file name, the test file's function, the means).
--- A test file returns a function that gets `t`: t.library(name) is a module of the library, t.read(path) a file's
--- bytes or nil, t.data the folder of test material. The result is a line of text, "n passed", or the failures.
local function show(v)
  if type(v) == "string" then return ("%q"):format(v) end
  if type(v) ~= "table" then return tostring(v) end
  local keys, parts = {}, {}
  for k in pairs(v) do keys[#keys + 1] = k end
  table.sort(keys, function(a, b) return tostring(a) < tostring(b) end)
  for i, k in ipairs(keys) do parts[i] = tostring(k) .. "=" .. show(v[k]) end
  return "{" .. table.concat(parts, ", ") .. "}"
end

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

return function(file, tests, means)
  local t, failures, n = means, {}, 0
  t.show = show
  t.log = print
  function t.equal(got, expected, what)
    if same(got, expected) then return end
    error(("%sgot      %s\n      expected %s"):format(what and what .. ": " or "", show(got), show(expected)), 2)
  end
  function t.check(ok, message)
    if not ok then error(message or "check failed", 2) end
    return ok
  end
  --- The message of the error that fn must raise; it must hold `part`.
  function t.fails(fn, part)
    local ok, e = pcall(fn)
    if ok then error("no error was raised", 2) end
    local text = tostring(e)
    if not text:find(part, 1, true) then error(("the error is %q; it should hold %q"):format(text, part), 2) end
    return text
  end
  function t.test(name, fn)
    n = n + 1
    local ok, e = xpcall(fn, function(e) return type(e) == "string" and e or show(e) end)
    if not ok then failures[#failures + 1] = ("%s: %s\n      %s"):format(file, name, e) end
  end
  tests(t)
  if #failures > 0 then return table.concat(failures, "\n") end
  return n > 0 and "passed" or "there is no test in it"
end
