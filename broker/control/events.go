// SPDX-License-Identifier: Apache-2.0

package control

// MessageIDs are what the entries of the journal are known by, in MESSAGE_ID= (systemd.journal-fields(7)): one for each
// event, by the name that stands in MSGMUX_EVENT=. An event keeps its id for ever; a new one gets a number from
// `systemd-id128 new`. packaging/catalog/msgmux.catalog explains each to who reads `journalctl -x`.
var MessageIDs = map[string]string{
	"started":              "5353d9d83c8fb675799ac63cdf62fccd",
	"stopping":             "e445c69ce9d979610c87d9c8e2861d38",
	"held":                 "95a3fc1ae5f7cb13746a7fb3dc7aa54a",
	"ring-broken":          "a9e76130d88e434574661144226dcd8e",
	"ring-not-moved":       "a421e8c5fa385cf0b2de138929ea218d",
	"sink-added":           "57c170c21b549fa0493828c316d18b87",
	"sink-gone":            "a5fddf64496cc62aa675fdbd02504978",
	"sink-lagging":         "10f2f9b8a91f59c51485aa8e3aa44550",
	"sink-recovered":       "11bcbd2494deb23accd0ad70c0663e63",
	"kept-away":            "7281c912baee635cd3afe92bbf2d269a",
	"kept-over":            "36554272fb71ab35ac24717237dee085",
	"sink-too-large":       "f3cc6d3ee53ed1029c92dbe4ee0563ed",
	"too-costly":           "112230fb138845ea8f0d5b82213f3f09",
	"sources-blocked":      "82bc8928f66fd1d23c06b72a44a60d40",
	"sources-go-on":        "c3099167f5dbfc85084d9ebc9cb5212c",
	"message-refused":      "423e740cce0f3fe082ed4885db542548",
	"registration-refused": "69d85547df43e0c847787d0d52383370",
	"static-sink":          "b84fff8ee4a3ea51a5866a15b645e770",
	"descriptor-refused":   "680ef741c79730c368e31430a89f048d",
	"descriptor-store":     "07d7e7ce6f6a4dd199a154e856f20bc4",
	"internal":             "4c7aea5809efcccc70b98a312a06cbc6",
	eventBus:               "510e6af9506398783fb84bbddf404006",
}

// eventBus is a bus that does not let the channel have its name.
const eventBus = "bus"
