-- Functions shared by the scripts: bucket.py line by line, and the account of one key. The other files are
-- appended to this one.
-- Lua's numbers are doubles; every number here is whole and below 2^53, and a quotient of two such numbers is
-- rounded to a whole number only if it is one, so ceil and floor are exact.

local BUCKETS, OPEN, RESERVATIONS, DAYS, RUNNING = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
-- Beside the tokens of each day in DAYS: their cost, and the tokens and the cost that reservations hold which
-- were not settled. Fields are `cost:DAY`, `held:DAY` and `held_cost:DAY`.
local BOOKS = KEYS[6]

local UNIT = 60000
local DAY_MS = 86400000
local RUNNING_WAIT_MS = 1000
-- Margin of the expiries: no key lives forever, and none expires too early.
local KEPT_MS = 60000
-- Days around today whose use is kept: those of a month, or of a week before its first day.
local DAYS_KEPT = 37
local DAYS_KEPT_MS = (DAYS_KEPT + 2) * DAY_MS
-- `gone` only grows: in Python without bound, here modulo this number.
local CIRCLE = 2 ^ 52

local function whole(number)
  return string.format('%.0f', number)
end

-- Now, twice: in milliseconds for what drains, in milliseconds since 1970 for days. Only tests pass it.
local function moment(ms, unix_ms)
  if ms ~= '' then
    return tonumber(ms), tonumber(unix_ms)
  end
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  return now, now
end

local function drain(bucket, now)
  if bucket.level > 0 then
    -- Redis has no monotonic clock. While its clock is behind, nothing drains.
    local drained = bucket.limit * math.max(0, now - bucket.at)
    drained = math.min(drained, bucket.level)
    bucket.level = bucket.level - drained
    bucket.gone = (bucket.gone + drained) % CIRCLE
  end
  bucket.at = now
end

local function wait_ms(bucket, cost)
  local over = bucket.level + (cost - bucket.limit) * UNIT
  if over > 0 then
    return math.ceil(over / bucket.limit)
  end
  return 0
end

local function debit(bucket, cost)
  bucket.level = bucket.level + cost * UNIT
  return (bucket.gone + bucket.level) % CIRCLE
end

local function correct(bucket, debited, used, mark)
  if used > debited then
    bucket.level = bucket.level + (used - debited) * UNIT
    return
  end
  local ahead = (mark - bucket.gone) % CIRCLE
  if ahead > CIRCLE / 2 then
    ahead = 0
  end
  local still_there = math.min(debited * UNIT, ahead)
  local refund = math.min((debited - used) * UNIT, still_there, bucket.level)
  bucket.level = bucket.level - refund
  bucket.gone = (bucket.gone + refund) % CIRCLE
end

local function left(bucket)
  local free = bucket.limit * UNIT - bucket.level
  if free > 0 then
    return math.floor(free / UNIT)
  end
  return 0
end

local function reset_ms(bucket)
  return math.ceil(bucket.level / bucket.limit)
end

local FIELDS = {'limit', 'level', 'gone', 'at'}

local function read_buckets(now)
  local stored = redis.call(
    'HMGET', BUCKETS, 'requests.limit', 'requests.level', 'requests.gone', 'requests.at',
    'tokens.limit', 'tokens.level', 'tokens.gone', 'tokens.at'
  )
  local function bucket(first)
    return {
      limit = tonumber(stored[first]) or 1,
      level = tonumber(stored[first + 1]) or 0,
      gone = tonumber(stored[first + 2]) or 0,
      at = tonumber(stored[first + 3]) or now,
    }
  end
  return bucket(1), bucket(5)
end

-- Buckets outlive their content and every reservation, whose mark would mean nothing in a new bucket.
local function write_buckets(requests, tokens, lease_ms)
  local fields = {}
  for name, bucket in pairs({requests = requests, tokens = tokens}) do
    for _, field in ipairs(FIELDS) do
      table.insert(fields, name .. '.' .. field)
      table.insert(fields, whole(bucket[field]))
    end
  end
  redis.call('HSET', BUCKETS, unpack(fields))
  local needed_ms = math.max(reset_ms(requests), reset_ms(tokens), lease_ms)
  redis.call('PEXPIRE', BUCKETS, whole(needed_ms + KEPT_MS))
end

local function keep_reservations(lease_ms)
  redis.call('PEXPIRE', OPEN, whole(lease_ms + KEPT_MS))
  redis.call('PEXPIRE', RESERVATIONS, whole(lease_ms + KEPT_MS))
  redis.call('PEXPIRE', RUNNING, whole(lease_ms + KEPT_MS))
end

-- A reservation as stored, and the fields of a stored one, which has no cost if an older release made it.
local function packed(tokens, day, request_mark, token_mark, requests, cost)
  return table.concat({whole(tokens), day, request_mark, token_mark, whole(requests), whole(cost)}, ' ')
end

local function unpacked(reservation)
  local tokens, day, request_mark, token_mark, requests, cost =
    string.match(reservation, '(%S+) (%S+) (%S+) (%S+) (%S+) ?(%S*)')
  return tonumber(tokens), day, request_mark, token_mark, tonumber(requests), tonumber(cost) or 0
end

-- Name in RUNNING of one of a reservation's requests of the engine.
local function member(id, number)
  if number == 1 then
    return id
  end
  return id .. ':' .. number
end

local function add_to_day(day, tokens, cost, held, held_cost)
  redis.call('HINCRBY', DAYS, whole(day), whole(tokens))
  redis.call('PEXPIRE', DAYS, whole(DAYS_KEPT_MS))
  for name, amount in pairs({cost = cost, held = held, held_cost = held_cost}) do
    if amount ~= 0 then
      redis.call('HINCRBY', BOOKS, name .. ':' .. whole(day), whole(amount))
    end
  end
  redis.call('PEXPIRE', BOOKS, whole(DAYS_KEPT_MS))
end

-- Day of the month, from 1, of a day counted from 1970: the inverse of `days_from_civil` of
-- https://howardhinnant.github.io/date_algorithms.html, whose years begin in March.
local function day_of_month(day)
  local of_era = (day + 719468) % 146097
  local year = math.floor(
    (of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524) - math.floor(of_era / 146096)) / 365
  )
  local of_year = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local month = math.floor((5 * of_year + 2) / 153)
  return of_year - math.floor((153 * month + 2) / 5) + 1
end

-- First day of the period that `day` is in, and the first day after it: `period_days` of caller/budgets.py.
local function period_days(period, day)
  if period == 'day' then
    return day, day + 1
  end
  if period == 'week' then
    local first = day - (day + 3) % 7
    return first, first + 7
  end
  local first = day - day_of_month(day) + 1
  -- 31 days later is always in the next month.
  return first, first + 32 - day_of_month(first + 31)
end
