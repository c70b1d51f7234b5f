-- add: count. A request that is sent again, because its reply was lost, counts once and gets the same answer.
--
-- KEYS[1-3]  see lib.lua    KEYS[4]  wake    stream of the key    KEYS[5]  requests    hash    client -> "request:sum"
-- ARGV[1-2]  see lib.lua    ARGV[3]  key    ARGV[4]  amount    ARGV[5]  client    ARGV[6]  request
-- returns    {"sum", decimal} | {"no number"} (the value is none, or the sum would not fit 64 bits) | ended | lost

local WAKE, REQUESTS = KEYS[4], KEYS[5]
local key, amount = text(ARGV[3], 1024, 'key'), ARGV[4]
local client, request = text(ARGV[5], 255, 'client'), text(ARGV[6], 32, 'request')

local function count()
  local before = call('HGET', REQUESTS, client)
  local again = before and before:match('^' .. request .. ':(.*)$')
  if again then return {'sum', again} end
  local new = call('HEXISTS', VALUES, key) == 0
  local sum = redis.pcall('HINCRBY', VALUES, key, amount)
  if type(sum) == 'table' and sum.err then return {'no number'} end
  if new then wake(WAKE) end
  local digits = call('HGET', VALUES, key) -- Lua's own number would be a double
  call('HSET', REQUESTS, client, request .. ':' .. digits)
  return {'sum', digits}
end

return finish(gone() or count(), REQUESTS)
