-- What is known of a flight at the moment it leaves the gate.
--
-- Sees `events`: the flights scheduled on this day (UTC), each in its newest version;
-- `aggregates`: the rows of aggregates.sql for the nine days before it, NULL for the two whose
-- flights are still being recorded, so a week is left.
-- What is known only after departure is no feature, whatever it would do for the accuracy, and
-- nothing but the flight's own row is taken from its own day.

WITH destination AS (
    SELECT
        region,
        CAST(sum(departed) AS BIGINT) AS flights,
        sum(departure_delay_minutes) / nullif(sum(departed), 0) AS departure_delay,
        sum(arrived_late) / nullif(sum(arrived), 0) AS late_share
    FROM aggregates
    GROUP BY region
),

carrier_to AS (
    SELECT
        region,
        carrier,
        CAST(sum(departed) AS BIGINT) AS flights,
        sum(arrived_late) / nullif(sum(arrived), 0) AS late_share
    FROM aggregates
    GROUP BY region, carrier
),

origin_airport AS (
    SELECT
        origin,
        sum(departure_delay_minutes) / nullif(sum(departed), 0) AS departure_delay,
        sum(arrived_late) / nullif(sum(arrived), 0) AS late_share
    FROM aggregates
    GROUP BY origin
),

flights AS (
    SELECT
        *,
        timezone('America/New_York', timezone('UTC', scheduled_departure)) AS local_departure
    FROM events
)

SELECT
    flight.event_id,
    flight.scheduled_departure AS event_time,
    flight.dest AS region,
    flight.arrived_late AS label, -- NULL where it never arrived

    -- the flight
    flight.dep_delay,
    flight.carrier,
    flight.origin,
    flight.distance,
    hour(flight.local_departure) AS hour_of_day,
    isodow(flight.local_departure) AS weekday,

    -- its plane
    year(flight.local_departure) - flight.plane_year AS plane_age,
    flight.plane_seats,

    -- the weather that it leaves in
    flight.temp,
    flight.dewp,
    flight.humid,
    flight.wind_dir,
    flight.wind_speed,
    flight.precip,
    flight.pressure,
    flight.visib,

    -- the week at its destination, with its carrier there, and at its origin
    destination.flights AS flights_7d,
    destination.departure_delay AS departure_delay_7d,
    destination.late_share AS late_share_7d,
    carrier_to.flights AS carrier_flights_7d,
    carrier_to.late_share AS carrier_late_share_7d,
    origin_airport.departure_delay AS origin_departure_delay_7d,
    origin_airport.late_share AS origin_late_share_7d
FROM flights AS flight
LEFT JOIN destination ON destination.region = flight.dest
LEFT JOIN carrier_to ON carrier_to.region = flight.dest AND carrier_to.carrier = flight.carrier
LEFT JOIN origin_airport ON origin_airport.origin = flight.origin
