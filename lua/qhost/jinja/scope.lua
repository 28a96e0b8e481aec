--- scope.lua: where each variable of a template lives.
---
--- Names are resolved when the template is compiled. The template, every macro and every recursive
--- loop is an activation with a register table `r`: r[1] is the register table of the activation
--- around it, r[2...] are variables. A for loop and a few other tags open a scope inside their
--- activation, with registers of its own. A name that a scope assigns may still be unset when it
--- is read, so a read tries the registers of all scopes that assign it, inside out, and then the
--- variables given to the template.
local M = {}

local Scopes = {}
Scopes.__index = Scopes

--- Scopes of a template under compilation, with the outermost one open.
function M.new()
  local self = setmetatable({}, Scopes)
  self:open_activation()
  return self
end

--- Open a scope inside the current activation.
function Scopes:open()
  self.current = { names = {}, parent = self.current, activation = self.current.activation }
  return self.current
end

--- Open a scope that is an activation of its own.
function Scopes:open_activation()
  self.current = { names = {}, parent = self.current, activation = { size = 1 } }
  return self.current
end

function Scopes:close()
  self.current = self.current.parent
end

--- Give a name a register in the current scope.
function Scopes:declare(name)
  local scope = self.current
  local slot = scope.names[name]
  if not slot then
    slot = self:register()
    scope.names[name] = slot
  end
  return slot
end

--- A register without a name.
function Scopes:register()
  local activation = self.current.activation
  activation.size = activation.size + 1
  return activation.size
end

--- Places a name may live in, innermost first: { { level, slot } }, level counting activations up.
function Scopes:find(name)
  local places, level, scope = {}, 0, self.current
  while scope do
    local slot = scope.names[name]
    if slot then places[#places + 1] = { level = level, slot = slot } end
    if scope.parent and scope.parent.activation ~= scope.activation then level = level + 1 end
    scope = scope.parent
  end
  return places
end

--- Declare what statements assign in the current scope; returns the registers. Bodies that open
--- a scope of their own are left out.
function Scopes:declare_assigned(body, slots)
  slots = slots or {}
  local function target(node)
    if node.t == "name" then
      slots[#slots + 1] = self:declare(node.name)
    elseif node.t == "tuple" then
      for _, item in ipairs(node.items) do target(item) end
    end
  end
  for _, node in ipairs(body) do
    if node.t == "set" or node.t == "setblock" then
      target(node.target)
    elseif node.t == "macro" then
      slots[#slots + 1] = self:declare(node.name)
    elseif node.t == "if" then
      for _, branch in ipairs(node.branches) do self:declare_assigned(branch.body, slots) end
      if node.otherwise then self:declare_assigned(node.otherwise, slots) end
    end
  end
  return slots
end

--- Does a syntax tree name a variable anywhere?
function M.mentions(node, name)
  if node.t == "name" and node.name == name then return true end
  for _, child in next, node do
    if type(child) == "table" and M.mentions(child, name) then return true end
  end
  return false
end

--- A register table. The constructors reserve array space: registers are set in any order.
function M.frame(up, size)
  if size <= 8 then return { up, nil, nil, nil, nil, nil, nil, nil } end
  if size <= 16 then
    return { up, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil }
  end
  return { up, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil,
    nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil, nil }
end

return M
