-- restore: give back to a server that has lost its memory the seat that the caller has. With the last seat the round
-- stands again, as if nothing had been. Repeating it changes nothing.
--
-- KEYS       all keys of the group, see lib/
-- ARGV[1-17] the caller, its claim and the group's rules, see lib/
-- ARGV[18]   nproc    ARGV[19] addr    ARGV[20] port, as bid    ARGV[21] base_rank
-- ARGV[22]   world_size    ARGV[23] addr    ARGV[24] port, of the round's master    ARGV[25] charged, when it was settled
-- ARGV[26]   consecutive    ARGV[27] why, of the round    ARGV[28] ledger of charges, see lib/
-- returns    standing | restoring (others are still missing) | lapsed | superseded | restart | closed

local bid = {
  nproc = number(ARGV[18], 0, 'nproc'), addr = text(ARGV[19], 255, 'addr'), port = number(ARGV[20], 0, 'port'),
}
local base_rank, world = number(ARGV[21], 0, 'base_rank'), number(ARGV[22], 0, 'world_size')
local addr, port = text(ARGV[23], 255, 'master addr'), number(ARGV[24], 0, 'master port')
local paid, row = number(ARGV[25], 0, 'charged'), number(ARGV[26], 0, 'consecutive')
local why, carried = text(ARGV[27], 1024, 'why'), text(ARGV[28], 65536, 'ledger')

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
