-- gaps: unite what the caller's watchdog knows of the longest gaps between workers' signs of life with what the run knows.
--
-- KEYS       all keys of the group, see lib/
-- ARGV[1-20] the caller, its claim and the group's rules, see lib/
-- ARGV[21]   rows "limit longest_ms second_ms count", newlines between; "" to ask only
-- returns    {"gaps", rows of the whole run}

local told = text(ARGV[21], 65536, 'gaps')
local LIMITS_KEPT, ROW, NUMBERS = 256, '^(%S+) (%d+) (%d+) (%d+)$', '^(%d+) (%d+) (%d+)$'

local function larger(one, other) return string.format('%d', math.max(number(one, 0, 'gap'), tonumber(other or 0))) end

-- What an agent says twice, or what two say, changes nothing: of each number the largest that was said is kept.
local function unite(row)
  local limit, longest, second, count = row:match(ROW)
  if not limit then error('BADARG gaps are not rows of a limit and three numbers') end
  local was = call('HGET', GAPS, limit)
  if not was and call('HLEN', GAPS) >= LIMITS_KEPT then return end
  local a, b, c = (was or ''):match(NUMBERS)
  local now_known = larger(longest, a) .. ' ' .. larger(second, b) .. ' ' .. larger(count, c)
  if now_known ~= was then write('HSET', GAPS, limit, now_known) end
end

local function of_the_run()
  local rows, found = {}, call('HGETALL', GAPS)
  for i = 1, #found, 2 do rows[#rows + 1] = found[i] .. ' ' .. found[i + 1] end
  return {'gaps', table.concat(rows, '\n')}
end

tick()
if get('state') and not is('closed') then -- else nobody would see to the key's life
  for row in told:gmatch('[^\n]+') do unite(row) end
end
return finish(of_the_run())
