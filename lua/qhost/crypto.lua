--- crypto.lua: digests, encodings of bytes, ids and secrets: qh.crypto.
local core = require "qhost.core"
local c = core.crypto
local M = {}

local FORMS = { hex = true, base64 = true, base64url = true, raw = true }

local function in_form(bytes, form)
  form = form or "hex"
  if form == "raw" then return bytes end
  if not FORMS[form] then
    error(("qh.crypto: '%s' is no form; hex, base64, base64url and raw are"):format(tostring(form)), 3)
  end
  return c.encode(form, bytes)
end

--- SHA-256 of a text.
---@param data string
---@param form? "hex"|"base64"|"base64url"|"raw"  default "hex"
---@return string
function M.sha256(data, form) return in_form(c.sha256(data), form) end

--- HMAC-SHA-256 of a text under a key.
---@param key string
---@param data string
---@param form? "hex"|"base64"|"base64url"|"raw"  default "hex"
---@return string
function M.hmac_sha256(key, data, form) return in_form(c.hmac_sha256(key, data), form) end

--- Bytes nobody can guess, at most 1 MiB.
---@param n integer
---@param form? "hex"|"base64"|"base64url"|"raw"  default "raw"
---@return string
function M.random_bytes(n, form) return in_form(c.random(n), form or "raw") end

--- Whether two texts are equal, without telling by the time where they differ: for keys and signatures.
---@param a string
---@param b string
---@return boolean
function M.equal(a, b) return c.equal(a, b) end

for _, name in ipairs { "base64", "base64url", "hex" } do
  M[name] = {
    --- Bytes as text.
    encode = function(data) return c.encode(name, data) end,
    --- Text as bytes; nil and a message when it is not of this encoding.
    decode = function(text)
      local data, message = c.decode(name, text)
      if not data then return nil, message end
      return data
    end,
  }
end

local function as_uuid(hi, lo)
  return ("%08x-%04x-%04x-%04x-%012x"):format(hi >> 32 & 0xffffffff, hi >> 16 & 0xffff, hi & 0xffff, lo >> 48 & 0xffff,
    lo & 0xffffffffffff)
end

local function variant(lo) return lo & 0x3fffffffffffffff | 2 << 62 end

--- A random UUID (version 4 of RFC 9562).
---@return string
function M.uuid()
  local hi, lo = ("i8i8"):unpack(c.random(16))
  return as_uuid(hi & ~0xf000 | 0x4000, variant(lo))
end

local last_ms, counter = 0, 0

--- A UUID that begins with the time (version 7 of RFC 9562): later ones sort after earlier ones.
---@return string
function M.uuid7()
  local ms = math.floor(core.wall() * 1000)
  if ms > last_ms then
    last_ms, counter = ms, core.random() & 0x7ff
  elseif counter < 0xfff then
    counter = counter + 1
  else
    last_ms, counter = last_ms + 1, 0                    -- 12 bits of counter are used up: borrow from the future
  end
  return as_uuid(last_ms << 16 | 0x7000 | counter, variant((("i8"):unpack(c.random(8)))))
end

return M
