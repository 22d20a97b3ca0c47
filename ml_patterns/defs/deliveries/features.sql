-- What is known of a parcel when it is picked up.
--
-- Sees `events`: the parcels picked up in this hour, each in its newest version;
-- `aggregates`: the rows of aggregates.sql for the 24 hours before this one, label columns NULL
-- where labels are still coming in; `weather`: one row per day, none where it was not read.
-- Nothing but the parcel's own row is taken from its own hour: the rest of that hour had not
-- happened yet.

WITH this_hour AS (
    SELECT date_trunc('hour', min(picked_up_at)) AS hour_start FROM events
),

last_day AS (
    SELECT
        region,
        CAST(sum(parcels) AS BIGINT) AS parcels,
        sum(delivered_late) / nullif(sum(delivered), 0) AS late_share,
        sum(backlog_seen) / nullif(sum(parcels), 0) AS backlog,
        sum(distance_km) / nullif(sum(parcels), 0) AS distance_km
    FROM aggregates
    GROUP BY region
),

-- The three hours before this one.
last_hours AS (
    SELECT
        region,
        CAST(sum(parcels) AS BIGINT) AS parcels,
        sum(backlog_seen) / nullif(sum(parcels), 0) AS backlog,
        max(backlog_peak) AS backlog_peak
    FROM aggregates, this_hour
    WHERE partition_start >= hour_start - INTERVAL 3 HOURS
    GROUP BY region
),

-- What yesterday brought from this hour on: the usual at this time of day, and the rush to come.
yesterday AS (
    SELECT
        region,
        CAST(
            sum(parcels) FILTER (WHERE partition_start < hour_start - INTERVAL 23 HOURS) AS BIGINT
        ) AS this_hour,
        sum(parcels) AS next_three_hours
    FROM aggregates, this_hour
    WHERE partition_start < hour_start - INTERVAL 21 HOURS
    GROUP BY region
)

SELECT
    parcel.parcel_id AS event_id,
    parcel.picked_up_at AS event_time,
    parcel.region,
    parcel.delivered_late AS label,

    -- the parcel
    parcel.carrier,
    parcel.service,
    parcel.distance_km,
    parcel.weight_g,
    parcel.promised_hours,
    parcel.price_cents,
    parcel.distance_km / parcel.promised_hours AS required_kmh,

    -- its hub
    parcel.hub_backlog,
    parcel.hub_backlog / parcel.promised_hours AS backlog_per_promised_hour,
    parcel.hub_backlog - last_hours.backlog AS backlog_growth,
    last_hours.backlog_peak AS backlog_peak_3h,
    parcel.hub_backlog / nullif(last_day.backlog, 0) AS backlog_against_day,

    -- its region
    last_hours.parcels AS parcels_3h,
    yesterday.next_three_hours / nullif(last_hours.parcels, 0) AS rush_ahead,
    yesterday.this_hour AS parcels_this_hour_yesterday,
    last_day.parcels AS parcels_24h,
    last_day.late_share AS late_share_24h,
    parcel.distance_km / nullif(last_day.distance_km, 0) AS distance_against_day,

    -- its day
    hour(parcel.picked_up_at) AS hour_of_day,
    isodow(parcel.picked_up_at) >= 6 AS weekend,
    weather.temperature_max,
    weather.rain_sum
FROM events AS parcel
LEFT JOIN last_day ON last_day.region = parcel.region
LEFT JOIN last_hours ON last_hours.region = parcel.region
LEFT JOIN yesterday ON yesterday.region = parcel.region
LEFT JOIN weather ON weather.date = CAST(parcel.picked_up_at AS DATE)
