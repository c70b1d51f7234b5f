-- set: give a key a value. Whoever waits for the key is woken when it gets its first.
--
-- KEYS[1-3]  see lib.lua    KEYS[4]  wake    stream of the key
-- ARGV[1-2]  see lib.lua    ARGV[3]  key    ARGV[4]  value
-- returns    {"set"} | ended | lost

local WAKE = KEYS[4]
local key, value = text(ARGV[3], 1024, 'key'), ARGV[4]

local function put()
  if call('HSET', VALUES, key, value) == 1 then wake(WAKE) end
  return {'set'}
end

return finish(gone() or put())
