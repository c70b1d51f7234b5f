-- wait: whether all of these keys have values, or where to wait for the first that has none.
--
-- KEYS[1-3]  see lib.lua
-- ARGV[1-2]  see lib.lua    ARGV[3]  keys, as a JSON list
-- returns    {"there"} | missing | ended | lost

local keys = cjson.decode(ARGV[3])

local function look()
  for _, key in ipairs(keys) do
    if call('HEXISTS', VALUES, key) == 0 then return missing(key) end
  end
  return {'there'}
end

return finish(gone() or look())
