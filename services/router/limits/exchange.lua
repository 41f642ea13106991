-- One exchange of a router with the store (exchange.py); memory_store.py does the same in Python.
-- ARGV: the prefix of all keys; the exchange, in JSON; seconds of quiet; seconds that a router lives; the leases' part.
-- Returns {epoch, now in µs, routers, quiet in ms, known, calls, grants}.
local ask = cjson.decode(ARGV[2])
local QUIET, LIFE, PART = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local floor, ceil, max, min = math.floor, math.ceil, math.max, math.min

-- Each run of the server begins anew, also one that has read an old state from its disk, or is a replica that took over.
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)') or 'unknown'
local P = ARGV[1] .. string.sub(run, 1, 12) .. ':'
local begun = redis.call('GET', P .. 'epoch')
if not begun then
  begun = string.format('%.6f', now)
  redis.call('SET', P .. 'epoch', begun)
end
redis.call('EXPIRE', P .. 'epoch', 172800)
local epoch = string.sub(run, 1, 12) .. ':' .. begun
local quiet = max(tonumber(begun) + QUIET - now, 0)

redis.call('ZREMRANGEBYSCORE', P .. 'routers', '-inf', now - LIFE)
local last = tonumber(redis.call('GET', P .. 'number:' .. ask.router) or '-1')
local known = (ask.epoch == '' or ask.epoch == epoch) and ask.number > last
if ask.leaving then
  redis.call('ZREM', P .. 'routers', ask.router)
else
  redis.call('ZADD', P .. 'routers', now, ask.router)
  redis.call('EXPIRE', P .. 'routers', 60)
end
local routers = redis.call('ZCARD', P .. 'routers')
local function answer(known, calls, grants)
  return {epoch, string.format('%.0f', now * 1e6), routers, ceil(quiet * 1000), known and 1 or 0, calls, grants}
end
if not known then return answer(false, {}, {}) end
redis.call('SET', P .. 'number:' .. ask.router, ask.number, 'EX', 3600)

local function amounts(flat)
  local found = {}
  for i = 1, #flat, 2 do found[flat[i]] = tonumber(flat[i + 1]) end
  return found
end

-- A meter, read once: what is charged (by slot, or by router and principal), and the sum.
local meters = {}
local function meter(hold)
  local m = meters[hold.key]
  if m then return m end
  m = {key = P .. hold.key, n = hold.slots, used = 0, charged = {}, shared = hold.principal ~= ''}
  meters[hold.key] = m
  m.width = hold.slots > 0 and hold.window / hold.slots or 1
  m.slot = floor(now / m.width)
  m.keep = ceil(hold.window + 2 * m.width + 10)
  m.since = hold.slots > 0 and m.slot - hold.slots or now - hold.window
  local all = amounts(redis.call('HGETALL', m.key))
  for field, amount in pairs(all) do
    local counts
    if m.n > 0 then
      counts = tonumber(field) >= m.slot - m.n
    else
      counts = redis.call('ZSCORE', P .. 'routers', string.match(field, '^(%S+)')) ~= false
    end
    if counts then
      m.charged[field] = amount
      m.used = m.used + amount
    else
      redis.call('HDEL', m.key, field)
      if m.n > 0 then
        for who, part in pairs(amounts(redis.call('HGETALL', m.key .. ':' .. field))) do
          if redis.call('HINCRBY', m.key .. ':used', who, -part) <= 0 then redis.call('HDEL', m.key .. ':used', who) end
        end
        redis.call('DEL', m.key .. ':' .. field)
      else
        local who = string.match(field, ' (.*)$')
        if redis.call('HINCRBY', m.key .. ':used', who, -amount) <= 0 then redis.call('HDEL', m.key .. ':used', who) end
      end
    end
  end
  if m.shared then
    redis.call('ZREMRANGEBYSCORE', m.key .. ':active', '-inf', '(' .. m.since)
    m.active = redis.call('ZCARD', m.key .. ':active')
  end
  return m
end

local function asks(m, who)
  if not m.shared then return end
  local score = m.n > 0 and m.slot or now
  m.active = m.active + redis.call('ZADD', m.key .. ':active', 'GT', score, who)
  redis.call('EXPIRE', m.key .. ':active', m.keep)
end

local function add(m, who, slot, amount)
  local field = m.n > 0 and string.format('%.0f', slot) or ask.router .. ' ' .. who
  if m.n > 0 and slot < m.slot - m.n then return end
  local there = m.charged[field] or 0
  amount = max(amount, -there)
  if amount == 0 then return end
  m.charged[field] = there + amount
  m.used = m.used + amount
  if redis.call('HINCRBY', m.key, field, amount) == 0 then redis.call('HDEL', m.key, field) end
  redis.call('EXPIRE', m.key, m.keep)
  if not m.shared then return end
  if m.n > 0 then
    redis.call('HINCRBY', m.key .. ':' .. field, who, amount)
    redis.call('EXPIRE', m.key .. ':' .. field, m.keep)
  end
  if redis.call('HINCRBY', m.key .. ':used', who, amount) <= 0 then redis.call('HDEL', m.key .. ':used', who) end
  redis.call('EXPIRE', m.key .. ':used', m.keep)
  if m.by then m.by[who] = (m.by[who] or 0) + amount end
  if amount > 0 then asks(m, who) end
end

-- As fairness.py: what is free beyond the unused shares of the others, or up to one's own share.
local function room(hold, m)
  local free = hold.limit - m.used
  if free <= 0 or not m.shared or m.active <= 1 then return max(free, 0) end
  m.by = m.by or amounts(redis.call('HGETALL', m.key .. ':used'))
  m.names = (m.names and #m.names == m.active) and m.names or redis.call('ZRANGE', m.key .. ':active', 0, -1)
  local kept, beyond = floor(hold.limit / m.active), free
  for _, who in ipairs(m.names) do
    if who ~= hold.principal then beyond = beyond - max(kept - (m.by[who] or 0), 0) end
  end
  local own = ceil(hold.limit / m.active) - (m.by[hold.principal] or 0)
  return max(min(free, max(beyond, own)), 0)
end

local function fits(hold, m, amount)
  if amount == 0 then return true end
  local kept = (m.shared and m.active > 1) and (m.active - 1) * ceil(hold.limit / m.active) or 0
  return m.used + amount + kept <= hold.limit or amount <= room(hold, m)
end

local function wait(m, lacking)
  if m.n == 0 then return 1000 end
  local slots = {}
  for field in pairs(m.charged) do slots[#slots + 1] = tonumber(field) end
  table.sort(slots)
  local leaves = now
  for _, slot in ipairs(slots) do
    if lacking <= 0 then break end
    lacking = lacking - m.charged[string.format('%.0f', slot)]
    leaves = (slot + 1 + m.n) * m.width
  end
  return ceil((leaves - now) * 1000)
end

for _, hold in ipairs(ask.holds) do
  local m = meter(hold)
  for _, change in ipairs(hold.changes) do add(m, hold.principal, change[1], change[2]) end
  if m.n == 0 then
    local there = m.charged[ask.router .. ' ' .. hold.principal] or 0
    add(m, hold.principal, 0, hold.held - there)
    redis.call('EXPIRE', m.key, m.keep)
  end
end

local calls = {}
for at, needs in ipairs(quiet > 0 and {} or ask.calls) do
  local lacks, slots = {}, {}
  for i, need in ipairs(needs) do
    local hold = ask.holds[need[1] + 1]
    local m = meter(hold)
    asks(m, hold.principal)
    if not fits(hold, m, need[2]) then
      local left = room(hold, m)
      lacks[#lacks + 1] = {need[1], left, wait(m, need[2] - left)}
    end
  end
  if #lacks == 0 then
    for i, need in ipairs(needs) do
      local hold = ask.holds[need[1] + 1]
      local m = meter(hold)
      slots[i] = m.n > 0 and m.slot or 0
      add(m, hold.principal, slots[i], need[2])
    end
  end
  calls[at] = {#lacks == 0 and 1 or 0, #lacks == 0 and slots or lacks}
end

local grants = {}
for at, hold in ipairs(ask.holds) do
  local m = meter(hold)
  local left = room(hold, m)
  local slot = m.n > 0 and floor((now + hold.life) / m.width) or 0
  local leased = 0
  if quiet == 0 and hold.want > 0 then leased = min(hold.want, floor(hold.limit / PART), floor(left / 4)) end
  if leased > 0 then add(m, hold.principal, slot, leased) end
  grants[at] = {m.used, left - leased, leased, slot}
end
return answer(true, calls, grants)
