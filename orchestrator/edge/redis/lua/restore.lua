-- restore: give back to a server that has lost its memory the seat that the caller has. With the last seat the round
-- stands again, as if nothing had been. Repeating it changes nothing.
--
-- KEYS       all keys of the group, see lib/
-- ARGV[1-20] the caller, its claim and the group's rules, see lib/
-- ARGV[21]   nproc    ARGV[22] addr    ARGV[23] port, as bid    ARGV[24] base_rank
-- ARGV[25]   world_size    ARGV[26] addr    ARGV[27] port, of the round's master    ARGV[28] charged, when it was settled
-- ARGV[29]   consecutive    ARGV[30] why, of the round    ARGV[31] ledger of charges, see lib/
-- returns    standing | restoring (others are still missing) | lapsed | superseded | restart | closed

local bid = {
  nproc = number(ARGV[21], 0, 'nproc'), addr = text(ARGV[22], 255, 'addr'), port = number(ARGV[23], 0, 'port'),
}
local base_rank, world = number(ARGV[24], 0, 'base_rank'), number(ARGV[25], 0, 'world_size')
local addr, port = text(ARGV[26], 255, 'master addr'), number(ARGV[27], 0, 'master port')
local paid, row = number(ARGV[28], 0, 'charged'), number(ARGV[29], 0, 'consecutive')
local why, carried = text(ARGV[30], 1024, 'why'), text(ARGV[31], 65536, 'ledger')

local function restore()
  readmit(base_rank)
  if not (known() and has_seat(name)) then return end
  write('HSET', BIDS, name, cjson.encode(bid))
  learn(carried)
  set('world', world, 'addr', addr, 'port', port, 'seat_paid', paid, 'seat_row', row, 'consecutive', row, 'seat_why', why)
  if call('HLEN', SEATS) < num('size') then return end
  set('state', 'settled', 'restored', 1) -- what workers had shared is lost all the same
  unset('restore_until')
  announce({'up', num('round'), 0})
  if call('ZCARD', WAITING) > 0 then grow() end
end

tick()
if is('restoring') and claims_seat() then restore() end
return finish(fate())
