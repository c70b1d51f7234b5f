-- barrier: arrive at a barrier for the n-th time; the last of ``size`` workers opens it for all. Arriving twice is once.
--
-- KEYS[1-3]  see lib.lua    KEYS[4]  wake    stream of this n-th time    KEYS[5]  arrived    set    of ranks, this time
-- KEYS[6]    opened  hash    barrier -> how often it has opened
-- ARGV[1-2]  see lib.lua    ARGV[3]  barrier    ARGV[4]  n, from 0    ARGV[5]  rank    ARGV[6]  size
-- returns    {"open"} | missing | ended

local WAKE, ARRIVED, OPENED = KEYS[4], KEYS[5], KEYS[6]
local name, n, rank, size = text(ARGV[3], 1024, 'barrier'), tonumber(ARGV[4]), text(ARGV[5], 32, 'rank'), tonumber(ARGV[6])

local function arrive()
  if tonumber(call('HGET', OPENED, name) or 0) > n then return {'open'} end
  call('SADD', ARRIVED, rank)
  if call('SCARD', ARRIVED) < size then return missing(name) end
  call('HSET', OPENED, name, n + 1)
  call('DEL', ARRIVED)
  wake(WAKE)
  return {'open'}
end

return finish(ended() or arrive(), ARRIVED, OPENED)
