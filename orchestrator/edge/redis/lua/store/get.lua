-- get: the value of a key, or where to wait for it.
--
-- KEYS[1-3]  see lib.lua
-- ARGV[1-2]  see lib.lua    ARGV[3]  key
-- returns    {"value", value} | missing | ended | lost

local key = text(ARGV[3], 1024, 'key')

local function look()
  local value = call('HGET', VALUES, key)
  return value and {'value', value} or missing(key)
end

return finish(gone() or look())
