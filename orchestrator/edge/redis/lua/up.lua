-- up: how far the caller's workers of the claimed round have come. Everyone hears when those of all members have.
--
-- KEYS       all keys of the group, see lib/
-- ARGV[1-20] the caller, its claim and the group's rules, see lib/
-- ARGV[21]   level: 1 all run | 2 and all are ready
-- returns    standing | superseded | restart | closed | lapsed | restoring (restore the seat first)

local reached = number(ARGV[21], 1, 'level')
if reached > 2 then error('BADARG level is out of range') end

-- Members that have come so far are counted; each once, by what it has said last of this round.
local function count()
  local field, here = 'up:' .. name, num('round') .. ':'
  local said = get(field) or ''
  local before = said:sub(1, #here) == here and tonumber(said:sub(#here + 1)) or 0
  if reached <= before then return end
  local was, counts = level(), ups()
  for at = before + 1, reached do counts[at] = counts[at] + 1 end
  set(field, here .. reached, 'ups', here .. counts[1] .. ':' .. counts[2])
  if level() > was then announce({'up', num('round'), level()}) end
end

tick()
local found = fate()
if found[1] == 'standing' or found[1] == 'restoring' and found[3] == 1 then count() end
return finish(found)
